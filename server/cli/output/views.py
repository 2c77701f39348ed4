"""Views of resources: JSON for programs, fields and columns for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from server.cli.output.tables import print_fields, print_json, print_table, to_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from google.protobuf.message import Message

M = TypeVar("M", bound="Message")


def show_one(resource: M, fields: Callable[[M], Iterable[tuple[str, str]]], *, as_json: bool) -> None:
    """Print one resource: one JSON document, or its non-empty fields, one a line."""
    if as_json:
        print_json(to_plain(resource))
    else:
        print_fields(fields(resource))


def show_list(
    resources: Iterable[M], header: Sequence[str], row: Callable[[M], Sequence[str]], *, as_json: bool
) -> None:
    """Print resources: one JSON array, or a table with one row for each."""
    if as_json:
        print_json([to_plain(resource) for resource in resources])
    else:
        print_table(header, [row(resource) for resource in resources])
