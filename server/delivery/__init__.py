"""Delivery of matches: watchers, subscriptions and their dispatchers."""

from __future__ import annotations
