"""The running process: its periodic tasks, its shutdown, its memory, and settings that affect all of its threads."""

from __future__ import annotations
