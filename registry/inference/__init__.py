"""Schemas proposed from payloads."""

from __future__ import annotations
