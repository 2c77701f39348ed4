"""What is deleted about matches and runs: old matches, and what they hold about a person."""

from __future__ import annotations
