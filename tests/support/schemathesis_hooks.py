"""What a short run of Schemathesis leaves out. The tool loads this file, as its settings say."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis.generation.meta import CoveragePhaseData, CoverageScenario

_tried: set[tuple[str | None, ...]] = set()


@schemathesis.hook
def filter_case(_context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    """Return whether a request is made: of the wrong types for a value, one. Tests of the dialects try all of them."""
    edge = case.meta.phase.data if case.meta else None
    if not isinstance(edge, CoveragePhaseData) or edge.scenario is not CoverageScenario.INCORRECT_TYPE:
        return True
    place = (case.operation.label, edge.parameter, edge.location, edge.description)
    untried = place not in _tried
    _tried.add(place)
    return untried
