"""Authentication and authorization of callers, shared by all front doors."""

from __future__ import annotations
