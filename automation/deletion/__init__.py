"""The deletion of old matches, and of what matches and runs hold about a person."""

from __future__ import annotations
