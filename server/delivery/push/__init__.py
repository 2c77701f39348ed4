"""Pushes the matches of subscriptions as signed HTTP requests: one consumer of each dispatcher, run by the server."""

from __future__ import annotations
