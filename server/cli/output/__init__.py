"""What commands print."""

from __future__ import annotations
