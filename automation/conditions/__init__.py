"""The condition language of automations: a subset of CEL, parsed, checked, compiled, traced and indexed.

`docs/conditions.md` describes the language. Most callers need `condition.Condition`, `index.ConditionIndex` and
`checking.check`.
"""

from __future__ import annotations
