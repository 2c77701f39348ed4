"""The composition root: builds the parts of a server by plain constructors, starts them in order, and closes them."""

from __future__ import annotations

from server.app.server import Server, running

__all__ = ["Server", "running"]
