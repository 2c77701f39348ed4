"""JSON values: which ones Signalbox stores, and how stored ones are read."""

from __future__ import annotations
