"""Conversion between messages of the contract and plain values: `read_x` and `write_x`."""

from __future__ import annotations
