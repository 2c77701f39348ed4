"""The compatibility of schemas, and the rules that a new revision must keep."""

from __future__ import annotations
