"""The client side of a command: the connection, its errors, pages and streams."""

from __future__ import annotations
