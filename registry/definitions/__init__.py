"""Event definitions, their revisions and their schemas, as values."""

from __future__ import annotations
