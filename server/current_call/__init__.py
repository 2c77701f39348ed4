"""The call that the running code serves: who made it, what it may see, how long it waits, and its line in the log."""

from __future__ import annotations
