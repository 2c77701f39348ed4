"""Event definitions kept as YAML files: plan, apply, test, export and backtest."""

from __future__ import annotations
