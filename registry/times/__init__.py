"""Instants, and the clock that they are read from."""

from __future__ import annotations
