"""Subscriptions to the match log: values, SQL, and the step that settles, expires and leases."""

from __future__ import annotations
