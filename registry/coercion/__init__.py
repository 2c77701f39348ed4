"""Validation and coercion of payloads, and the coercion table that decides them."""

from __future__ import annotations
