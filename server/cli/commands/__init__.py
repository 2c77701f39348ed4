"""The commands: one module for each command group."""

from __future__ import annotations
