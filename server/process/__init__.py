"""The running process: its periodic tasks, its shutdown, its memory, its abandoned futures, and its settings."""

from __future__ import annotations
