"""Databases, tables, migrations, and the SQL of the server's own tables."""

from __future__ import annotations
