"""Periodic work of a server."""

from __future__ import annotations
