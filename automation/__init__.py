"""Automations: conditions, matching, runs and subscriptions.

Imports the registry, never the server.
"""

from __future__ import annotations
