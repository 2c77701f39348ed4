"""The migrations, numbered in the order they run."""

from __future__ import annotations
