"""What an error looks like to callers: its code, its HTTP status, and what of it fits into a status."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc import StatusCode

from registry.errors import SignalboxError, Violation
from server.errors import (
    CursorExpired,
    CursorRewound,
    DefinitionInUse,
    InvalidArgument,
    PositionBeyondHead,
    ProjectNotFound,
    QueueFull,
    ServiceError,
    Stopping,
    StorageBusy,
    StorageFull,
    SubscriptionInUse,
    UnstorableText,
    WatcherTooSlow,
)
from server.rpc.rich_status import rich_status
from server.status import CODES, code_of, cut, http_status_of, message_of, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.rpc.status_pb2 import Status

HTTP = {
    StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    StatusCode.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    StatusCode.UNIMPLEMENTED: HTTPStatus.METHOD_NOT_ALLOWED,
    StatusCode.DEADLINE_EXCEEDED: HTTPStatus.REQUEST_TIMEOUT,
    StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    StatusCode.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    StatusCode.ABORTED: HTTPStatus.CONFLICT,
    StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.SERVICE_UNAVAILABLE,
    StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    StatusCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""The HTTP status of each gRPC code, by its name in the standard library."""

PRECISE = {
    "BODY_TOO_LARGE": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "UNSUPPORTED_MEDIA_TYPE": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "UNSUPPORTED_CHARSET": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "UNSUPPORTED_ENCODING": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "RATE_LIMITED": HTTPStatus.TOO_MANY_REQUESTS,
}
"""Reasons for which HTTP has a status of its own."""


def error_of(reason: str) -> SignalboxError:
    """Make an error of a reason; which class has it does not matter to its status."""
    error = ServiceError("It is refused")
    vars(error)["reason"] = reason
    return error


@pytest.mark.parametrize("reason", CODES)
def test_an_error_has_the_http_status_of_its_reason_or_of_its_code(reason: str) -> None:
    error = error_of(reason)
    assert (reason_of(error), code_of(error)) == (reason, CODES[reason])
    assert http_status_of(error) == PRECISE.get(reason, HTTP[CODES[reason]])


@pytest.mark.parametrize("code", StatusCode)
def test_an_http_status_blames_the_side_that_the_code_blames(code: StatusCode) -> None:
    """RESOURCE_EXHAUSTED means that the server lacks something, unless by its reason the caller sent too much."""
    ours = {StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNAVAILABLE, StatusCode.INTERNAL}
    for reason in (reason for reason, each in CODES.items() if each is code and reason not in PRECISE):
        assert http_status_of(error_of(reason)) // 100 == (5 if code in ours else 4)


def test_a_reason_ends_as_its_code_is_named() -> None:
    endings = {
        "_NOT_FOUND": StatusCode.NOT_FOUND,
        "_ALREADY_EXISTS": StatusCode.ALREADY_EXISTS,
        "_MISMATCH": StatusCode.ABORTED,
        "_UNAVAILABLE": StatusCode.UNAVAILABLE,
        "_FULL": StatusCode.RESOURCE_EXHAUSTED,
        "_REJECTED": StatusCode.INVALID_ARGUMENT,
    }
    for ending, code in endings.items():
        assert {CODES[reason] for reason in CODES if reason.endswith(ending)} == {code}, ending
    begins_with_invalid = {CODES[reason] for reason in CODES if reason.startswith("INVALID_")}
    assert begins_with_invalid == {StatusCode.INVALID_ARGUMENT}


def test_an_error_of_another_kind_is_internal_and_its_text_is_not_shown() -> None:
    error = ValueError("the password is hunter2")
    assert (reason_of(error), message_of(error)) == ("INTERNAL", "Internal error")
    assert (code_of(error), http_status_of(error)) == (StatusCode.INTERNAL, 500)
    (info,) = details(rich_status(error), ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == ("INTERNAL", "signalbox", {})


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("x" * 10, 10, "x" * 10),
        ("x" * 11, 10, "x" * 7 + "…"),
        ("é" * 5, 10, "é" * 5),
        # Seven bytes are three characters and a half: the half is left out.
        ("é" * 6, 10, "é" * 3 + "…"),
        ("", 0, ""),
    ],
)
def test_a_text_is_cut_to_its_bytes_between_characters(text: str, size: int, expected: str) -> None:
    assert cut(text, size) == expected
    assert len(cut(text, size).encode()) <= size


def test_a_message_has_at_most_500_bytes() -> None:
    for length, shown in ((500, "x" * 500), (501, "x" * 497 + "…")):
        assert message_of(InvalidArgument("x" * length)) == shown
        assert rich_status(InvalidArgument("x" * length)).message == shown


def details(status: Status, kind: type[Any]) -> Iterator[Any]:
    """Unpack the details of one kind."""
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            yield message


def test_a_status_has_the_parts_of_its_error_and_no_others() -> None:
    status = rich_status(ProjectNotFound("shop"))
    assert (status.code, status.message) == (StatusCode.NOT_FOUND.value[0], 'There is no project "shop"')
    (info,) = details(status, ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == ("PROJECT_NOT_FOUND", "signalbox", {"project": "shop"})
    assert len(status.details) == 1
    refused = InvalidArgument.at("a.b", "TOO_LARGE", "a.b is too large")
    (bad,) = details(rich_status(refused), BadRequest)
    assert [(each.field, each.reason, each.description) for each in bad.field_violations] == [
        ("a.b", "TOO_LARGE", "a.b is too large")
    ]


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (QueueFull(), 0.5),
        (WatcherTooSlow(3), 1),
        (Stopping(), 1),
        (StorageFull(), 5),
        (StorageBusy(), 1),
        (ProjectNotFound("x"), None),
    ],
)
def test_a_temporary_error_says_when_to_try_again(error: SignalboxError, seconds: float | None) -> None:
    delays = [each.retry_delay.ToTimedelta().total_seconds() for each in details(rich_status(error), RetryInfo)]
    assert delays == ([] if seconds is None else [seconds])


def test_metadata_and_paths_have_at_most_255_bytes() -> None:
    for length, shown in ((255, "x" * 255), (256, "x" * 252 + "…")):
        (info,) = details(rich_status(ProjectNotFound("x" * length)), ErrorInfo)
        assert info.metadata["project"] == shown
        refused = InvalidArgument.at("x" * length, "TOO_LARGE", "y" * 600)
        (bad,) = details(rich_status(refused), BadRequest)
        (violation,) = bad.field_violations
        assert (violation.field, violation.description) == (shown, "y" * 497 + "…")


def test_violations_are_reported_up_to_3000_bytes() -> None:
    def told(last: int) -> list[str]:
        """Return the fields reported for two violations, the second of `last` bytes after one of 500."""
        # Besides its texts, a violation of these sizes takes two bytes for the reason, and two or three for each other.
        violations = [violation_of(name, 500) for name in "abcde"] + [violation_of("f", last), violation_of("g", 200)]
        (bad,) = details(rich_status(InvalidArgument("many", violations=violations)), BadRequest)
        return [each.field for each in bad.field_violations]

    # Five violations of 500 bytes leave 500.
    assert told(500) == ["a", "b", "c", "d", "e", "f"]
    assert told(501) == ["a", "b", "c", "d", "e"]


def violation_of(name: str, size: int) -> Violation:
    """Make a violation whose message takes `size` bytes on the wire."""
    empty = BadRequest.FieldViolation(field=name, reason="R", description="x" * 200).ByteSize() - 200
    made = Violation(name, "R", "x" * (size - empty))
    assert BadRequest.FieldViolation(field=name, reason="R", description=made.message).ByteSize() == size
    return made


@pytest.mark.parametrize(
    ("error", "message", "metadata"),
    [
        (
            DefinitionInUse("paid", 1),
            'Event "paid" is used by 1 active automation; pause them first',
            {"event": "paid", "count": "1"},
        ),
        (
            DefinitionInUse("paid", 2_000),
            'Event "paid" is used by 2,000 active automations; pause them first',
            {"event": "paid", "count": "2000"},
        ),
        (
            SubscriptionInUse("engine", 1),
            "The subscription has 1 connected consumer; disconnect them, or delete it with force",
            {"subscription": "engine", "consumer_count": "1"},
        ),
        (
            CursorExpired(7_000),
            "Matches after this start point have been deleted; the earliest available match is at position 7,000",
            {"earliest_position": "7000"},
        ),
        (
            PositionBeyondHead(7_000, 12),
            "The requested start position 7,000 is past the newest match (position 12)",
            {"position": "7000", "head_position": "12"},
        ),
        (
            CursorRewound(7_000, 12),
            (
                "The log was restored to an earlier state after this cursor was returned at position 7,000;"
                " it now ends at position 12. Start again at a position or time before the restore"
            ),
            {"position": "7000", "head_position": "12"},
        ),
        (Stopping(), "The server is shutting down; requests without a response were not stored", {}),
        (
            Stopping(cut_off=True),
            "The server stopped before the request was finished; send it again with the same idempotency key",
            {},
        ),
        (
            WatcherTooSlow(1.5),
            "The client did not read a response within 1.5 seconds; resume from the cursor of the last one read",
            {},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_has_its_counts_and_positions_in_message_and_metadata(
    error: SignalboxError, message: str, metadata: dict[str, str]
) -> None:
    assert (error.message, error.metadata) == (message, metadata)


@pytest.mark.parametrize(
    ("error", "place", "paths"),
    [(UnstorableText(), "A text in the request", []), (UnstorableText("a.b"), "a.b", ["a.b"])],
)
def test_a_text_that_cannot_be_stored_is_named_by_its_path(error: UnstorableText, place: str, paths: list[str]) -> None:
    assert error.message == f"{place} contains the character U+0000, which cannot be stored"
    assert [each.path for each in error.violations] == paths
