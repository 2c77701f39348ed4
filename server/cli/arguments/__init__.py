"""Command-line options and their values."""

from __future__ import annotations
