"""Subscriptions to the match log: values, SQL, leasing and settling."""

from __future__ import annotations
