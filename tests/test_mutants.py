"""What `make mutants` mutates, and by which tests, keeps up with the code."""

from __future__ import annotations

import ast

from tests.mutants.focus import POSTGRES_TESTS, TESTS, equivalent
from tests.mutants.mutations import mutations
from tests.mutants.trial import ROOT


def test_each_mutation_without_effect_can_be_made() -> None:
    listed = equivalent()
    paths = {name.split(" ", 1)[0] for name in listed}
    known = {each.name for path in paths for each in mutations(ast.parse((ROOT / path).read_text()), path)}
    assert set(listed) - known == set()


def test_mutants_are_tried_with_tests_that_exist() -> None:
    assert [test for test in (*TESTS, *POSTGRES_TESTS) if not (ROOT / test).is_file()] == []
