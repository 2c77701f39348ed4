"""The tables of event definitions and their revisions, and their SQL."""

from __future__ import annotations
