"""What the stores of all packages share: pages, searches, text columns and unreadable rows."""

from __future__ import annotations
