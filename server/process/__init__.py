"""The running process: its periodic tasks, its shutdown, and the settings that affect all of its threads."""

from __future__ import annotations
