"""The errors of the service.

ServiceError                     a SignalboxError
├── AccessError
│   ├── KeyMissing               no credential came with the call
│   ├── KeyInvalid               the credential is unknown or revoked
│   ├── KeyExpired               it has expired
│   ├── ScopeMissing             the key may not do this
│   ├── AdminRequired            only the admin key may do this
│   └── ProjectRequired          the admin key names no project
├── RequestError
│   ├── UnstorableText           a text holds NUL, which PostgreSQL cannot store
│   ├── MalformedRequest         the bytes are not a message of the request's type
│   ├── DeadlineExceeded         the time that the caller has set for the call is over
│   ├── NotOverHttp              both sides of the RPC stream, which HTTP/1.1 cannot
│   ├── FieldError               a field breaks its rule; carries violations
│   │   ├── InvalidArgument      of a request
│   │   └── InvalidConsumer      of a consumer: its id, window or heartbeat
│   ├── InvalidPageToken         the token is not of this list and these filters
│   ├── CursorInvalid            the cursor is not of this project's match log
│   ├── ContactRequired          the request names no contact
│   ├── BatchRejected            an all-or-nothing batch holds events that are refused
│   └── BatchTooCostly           matching the events of a batch takes too much for one request
├── ResourceError
│   ├── ProjectNotFound, ContactNotFound, EventNotFound, RefusedEventNotFound, KeyNotFound
│   ├── NothingToInferFrom       there are no events of a name to infer a definition from
│   ├── KeyNotActive             the key cannot be rotated
│   ├── ProjectAlreadyExists, ContactAlreadyExists, SecretInUse
│   ├── DefinitionInUse          active automations match events of the definition's name
│   ├── CursorExpired            matches after the start point have been deleted
│   ├── CursorRewound            a failover or a restore lost the place to begin at
│   ├── SubscriptionInUse        consumers are connected to the subscription
│   ├── SubscriptionPushes       the server itself is the consumer of the subscription
│   ├── SubscriptionDoesNotPush  the subscription has no URL to push to
│   ├── ConsumerReplaced         another stream of the same consumer has opened
│   ├── PositionBeyondHead       the start position is past the newest match
│   └── IdempotencyKeyReused     the key was used with other content
├── QueueFull                    the queue of events to be stored is full
├── ProjectRateExceeded          the project sends more events per second than its quota allows
├── ProjectQuotaExceeded         the project has recorded as many events today as its quota allows
├── LimitReached                 a limit that protects the server; counted in its metrics
│   ├── ProjectBusy              earlier requests of the project keep its share of the database busy
│   ├── TooManyCalls             of one project, or of callers whose keys are not known yet
│   ├── TooManyStreams           of one project
│   ├── TooManyLargeMessages     of the streams of one project
│   ├── TooManyKeyLookups        of keys that are not known yet
│   └── RequestTooSlow           the message of a call did not arrive in time
├── AutomationsChanging          the automations changed each time that a batch was to be matched
├── WatcherTooSlow               the client does not read the responses of a stream
├── Stopping                     the server is shutting down
└── StorageError
    ├── StorageFull              the disk is full
    ├── StorageReadOnly          the database cannot be written
    ├── StorageBusy              another process holds the database
    ├── StorageFailed            the database has to be repaired by its operator
    ├── StorageLate              the database has not confirmed a commit for a while
    ├── StorageReplaced          the database file was deleted or replaced
    ├── StorageUnavailable       the database cannot be reached
    └── InternalError           the database refused a statement, or the server has a defect; the cause is only logged

`reason` is the machine-readable name that callers see; `server.status` gives each its gRPC code. The docstring of an
error class is its message to callers, unless its constructor makes another; the tree above explains the classes.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from registry.errors import SignalboxError, Violation

if TYPE_CHECKING:
    from typing import Self


def _counted(count: int, noun: str) -> str:
    """Return a count and its noun, such as `2 consumers`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class ServiceError(SignalboxError):
    """The service refused a request."""


class AccessError(ServiceError):
    """The caller may not make this call."""


class KeyMissing(AccessError):
    """The API key is missing; send the metadata "authorization: Bearer <key>"."""

    reason = "API_KEY_MISSING"


class KeyInvalid(AccessError):
    """The API key is unknown or revoked."""

    reason = "API_KEY_INVALID"


class KeyExpired(AccessError):
    """The API key, or this secret of it, has expired."""

    reason = "API_KEY_EXPIRED"


class ScopeMissing(AccessError):
    """The API key lacks the scope "{scope}"."""

    reason = "SCOPE_MISSING"

    def __init__(self, scope: str) -> None:
        super().__init__(scope=scope)


class AdminRequired(AccessError):
    """Only the admin key may call this RPC."""

    reason = "ADMIN_REQUIRED"


class ProjectRequired(AccessError):
    """The admin key must name a project; send the metadata "signalbox-project: <id or name>"."""

    reason = "PROJECT_REQUIRED"


class RequestError(ServiceError):
    """The request is invalid."""


class MalformedRequest(RequestError):
    """The bytes are not the message that the method takes."""

    reason = "MALFORMED_REQUEST"


class DeadlineExceeded(RequestError):
    """The deadline of the call has passed; what it had begun to store may be stored."""

    reason = "DEADLINE_EXCEEDED"


class NotOverHttp(RequestError):
    """In {method} both sides stream, which takes gRPC. Over HTTP, call {alternative}."""

    reason = "NOT_OVER_HTTP"

    def __init__(self, method: str, alternative: str) -> None:
        super().__init__(method=method, alternative=alternative)


class UnstorableText(RequestError):
    """A text holds NUL, which PostgreSQL cannot store or look for."""

    reason = "UNSTORABLE_TEXT"

    def __init__(self, path: str = "") -> None:
        message = f"{path or 'A text in the request'} contains the character U+0000, which cannot be stored"
        super().__init__(message, violations=[Violation(path, self.reason, message)] if path else ())


class FieldError(RequestError):
    """A field breaks its rule."""

    @classmethod
    def at(cls, path: str, reason: str, message: str) -> Self:
        """Return the error of one field."""
        return cls.of(Violation(path, reason, message))

    @classmethod
    def of(cls, violation: Violation) -> Self:
        """Return the error of one violation."""
        return cls(violation.message, violations=[violation])


class InvalidArgument(FieldError):
    """A field of a request breaks its rule."""

    reason = "INVALID_ARGUMENT"


class InvalidPageToken(RequestError):
    """The page token is not valid for this list and these filters; start again without a page token."""

    reason = "INVALID_PAGE_TOKEN"


class CursorInvalid(RequestError):
    """The cursor is not valid; use one that WatchMatches returned in this project."""

    reason = "CURSOR_INVALID"


class InvalidConsumer(FieldError):
    """The id, the window or the heartbeat of a consumer breaks its rule."""

    reason = "INVALID_CONSUMER"


class BatchRejected(RequestError):
    """An all-or-nothing batch holds events that are refused; nothing of it is stored."""

    reason = "BATCH_REJECTED"


class BatchTooCostly(RequestError):
    """Matching the events of a batch takes too much for one request; nothing of it is stored."""

    reason = "BATCH_TOO_COSTLY"

    @classmethod
    def by_cost(cls, limit: int) -> Self:
        """Return the error of a batch on whose events the conditions cost too much."""
        return cls(
            f"The conditions of the project's automations take more than {limit:,} steps on the events of this batch,"
            " so none was stored; send fewer events in a batch"
        )

    @classmethod
    def by_matches(cls, limit: int) -> Self:
        """Return the error of a batch that has too many matches."""
        return cls(
            f"The events of this batch have more than {limit:,} matches, which is the most that can be stored together,"
            " so none was stored; send fewer events in a batch, or independent ones"
        )


class ResourceError(ServiceError):
    """Something that the request names is missing, taken or in another state."""


class ProjectNotFound(ResourceError):
    """There is no project "{project}"."""

    reason = "PROJECT_NOT_FOUND"

    def __init__(self, project: str) -> None:
        super().__init__(project=project)


class ProjectAlreadyExists(ResourceError):
    """A project named "{name}" already exists."""

    reason = "PROJECT_ALREADY_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(name=name)


class ContactNotFound(ResourceError):
    """There is no contact "{contact}" in this project."""

    reason = "CONTACT_NOT_FOUND"

    def __init__(self, contact: str) -> None:
        super().__init__(contact=contact)


class ContactAlreadyExists(ResourceError):
    """A contact with the email address "{email}" already exists."""

    reason = "CONTACT_ALREADY_EXISTS"

    def __init__(self, email: str) -> None:
        super().__init__(email=email)


class DefinitionInUse(ResourceError):
    """Active automations are triggered by this definition's events."""

    reason = "DEFINITION_IN_USE"

    def __init__(self, name: str, count: int) -> None:
        super().__init__(
            f'Event "{name}" is used by {_counted(count, "active automation")}; pause them first',
            event=name,
            count=str(count),
        )


class ContactRequired(RequestError):
    """The contact is missing; give its ID or email address."""

    reason = "CONTACT_REQUIRED"


class EventNotFound(ResourceError):
    """No event with the ID "{id}" is recorded in this project."""

    reason = "EVENT_NOT_FOUND"

    def __init__(self, event_id: str, *, deleted: bool = False) -> None:
        message = f'The event "{event_id}" was deleted after its retention period' if deleted else ""
        super().__init__(message, id=event_id)


class RefusedEventNotFound(ResourceError):
    """No refused event with the ID "{id}" is in quarantine in this project."""

    reason = "REFUSAL_NOT_FOUND"

    def __init__(self, refused_id: str) -> None:
        super().__init__(id=refused_id)


class NothingToInferFrom(ResourceError):
    """There are no events "{event}" to infer a definition from."""

    reason = "NOTHING_TO_INFER_FROM"

    def __init__(self, name: str) -> None:
        super().__init__(event=name)


class KeyNotFound(ResourceError):
    """There is no API key with the ID "{id}"."""

    reason = "API_KEY_NOT_FOUND"

    def __init__(self, key_id: str) -> None:
        super().__init__(id=key_id)


class KeyNotActive(ResourceError):
    """The API key "{id}" is revoked or has expired; create another one."""

    reason = "API_KEY_NOT_ACTIVE"

    def __init__(self, key_id: str) -> None:
        super().__init__(id=key_id)


class SecretInUse(ResourceError):
    """An API key with this secret already exists."""

    reason = "SECRET_IN_USE"


class IdempotencyKeyReused(ResourceError):
    """The idempotency key "{idempotency_key}" was used before with other content."""

    reason = "IDEMPOTENCY_KEY_REUSED"

    def __init__(self, key: str) -> None:
        super().__init__(idempotency_key=key)


class CursorExpired(ResourceError):
    """Matches after the start point have been deleted."""

    reason = "CURSOR_EXPIRED"

    def __init__(self, earliest: int) -> None:
        super().__init__(
            "Matches after this start point have been deleted;"
            f" the earliest available match is at position {earliest:,}",
            earliest_position=str(earliest),
        )


class CursorRewound(ResourceError):
    """A failover or a restore lost the match or event that a cursor identifies."""

    reason = "CURSOR_REWOUND"

    def __init__(self, position: int, head: int) -> None:
        super().__init__(
            f"The log was restored to an earlier state after this cursor was returned at position {position:,}; it now"
            f" ends at position {head:,}. Start again at a position or time before the restore",
            position=str(position),
            head_position=str(head),
        )


class SubscriptionInUse(ResourceError):
    """Consumers are connected to the subscription."""

    reason = "SUBSCRIPTION_IN_USE"

    def __init__(self, subscription: str, consumers: int) -> None:
        super().__init__(
            f"The subscription has {_counted(consumers, 'connected consumer')};"
            " disconnect them, or delete it with force",
            subscription=subscription,
            consumer_count=str(consumers),
        )


class SubscriptionPushes(ResourceError):
    """The subscription pushes its matches, so no consumer can connect to it; pause or clear its push first."""

    reason = "SUBSCRIPTION_PUSHES"

    def __init__(self, subscription: str) -> None:
        super().__init__(subscription=subscription)


class SubscriptionDoesNotPush(ResourceError):
    """The subscription does not push its matches; set its push first, with the URL of a receiver."""

    reason = "SUBSCRIPTION_DOES_NOT_PUSH"

    def __init__(self, subscription: str) -> None:
        super().__init__(subscription=subscription)


class ConsumerReplaced(ResourceError):
    """Another stream has been opened with the consumer ID "{consumer}"."""

    reason = "CONSUMER_REPLACED"

    def __init__(self, consumer_id: str) -> None:
        super().__init__(consumer=consumer_id)


class PositionBeyondHead(ResourceError):
    """The start position is past the newest match."""

    reason = "POSITION_BEYOND_HEAD"

    def __init__(self, position: int, head: int) -> None:
        super().__init__(
            f"The requested start position {position:,} is past the newest match (position {head:,})",
            position=str(position),
            head_position=str(head),
        )


class QueueFull(ServiceError):
    """Too many events are waiting to be stored. Nothing was stored; try again shortly."""

    reason = "QUEUE_FULL"
    retry_after = 0.5

    def __init__(self, waiting: str = "") -> None:
        super().__init__(
            waiting
            and f"{waiting} of this project are waiting to be stored, and its share of the queue has no room for this"
            " request. Nothing was stored; try again shortly"
        )


class ProjectRateExceeded(ServiceError):
    """The project sends more events per second than it may. Nothing was stored; send again later."""

    reason = "PROJECT_RATE_EXCEEDED"

    def __init__(self, rate: int, burst: int, seconds: float) -> None:
        super().__init__(
            f"The project may send {_counted(rate, 'event')} per second, and {burst:,} at once. Nothing was stored;"
            f" send again in {seconds:.3g} seconds",
            seconds=str(ceil(seconds)),
            limit=str(rate),
        )
        self.retry_after = seconds


class ProjectQuotaExceeded(ServiceError):
    """The project has recorded as many events today as it may. Nothing was stored; send again tomorrow."""

    reason = "PROJECT_QUOTA_EXCEEDED"

    def __init__(self, limit: int, left: int, seconds: float) -> None:
        super().__init__(
            f"The project may record {_counted(limit, 'event')} per day, of which {left:,} are left until midnight UTC."
            " Nothing was stored",
            seconds=str(ceil(seconds)),
            limit=str(limit),
            left=str(left),
        )
        self.retry_after = seconds


class LimitReached(ServiceError):
    """A limit that protects the server was reached."""


class ProjectBusy(LimitReached):
    """The project's earlier requests keep its share of the database busy. Nothing was stored; send fewer at once."""

    reason = "PROJECT_BUSY"
    retry_after = 1.0

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"This request waited {seconds:g} seconds for a turn at the database: earlier requests of the project use"
            " its share. Nothing of this one was stored; send fewer at the same time, and try again"
        )


class TooManyCalls(LimitReached):
    """Too many calls are in progress. Nothing of this one was stored; wait for responses, and try again shortly."""

    reason = "TOO_MANY_CALLS"
    retry_after = 0.5

    def __init__(self, count: int, limit: int) -> None:
        super().__init__(
            f"{_counted(count, 'call')} of this project are in progress, which is its present share of the {limit:,} of"
            " this server. Nothing of this one was stored; wait for responses, and try again shortly",
            limit=str(limit),
        )


class TooManyStreams(LimitReached):
    """Too many streams are open; end some, or try again later."""

    reason = "TOO_MANY_STREAMS"
    retry_after = 5.0

    @classmethod
    def of_project(cls, count: int, limit: int) -> Self:
        """Return the error of a project that has `count` streams."""
        return cls(
            f"{_counted(count, 'stream')} of this project are open, which is its present share of the {limit:,} of this"
            " server. End some, or try again later",
            limit=str(limit),
        )

    @classmethod
    def without_key(cls, limit: int) -> Self:
        """Return the error of the streams that need no key."""
        return cls(
            f"{_counted(limit, 'stream')} of this kind, which needs no key, are open; try again later",
            limit=str(limit),
        )


class TooManyLargeMessages(LimitReached):
    """Too many large messages of this project's streams wait to be handled; send fewer at a time, or smaller ones."""

    reason = "TOO_MANY_LARGE_MESSAGES"
    retry_after = 1.0


class TooManyKeyLookups(LimitReached):
    """Too many API keys that this server has not seen yet are being looked up; try again shortly."""

    reason = "TOO_MANY_KEY_LOOKUPS"
    retry_after = 0.5


class RequestTooSlow(LimitReached):
    """The message of the call did not arrive in time; nothing was stored."""

    reason = "REQUEST_TOO_SLOW"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The message of the call did not arrive within {seconds:g} seconds; nothing was stored")


class AutomationsChanging(ServiceError):
    """The project's automations changed each time the events were to be matched. Nothing was stored; try again."""

    reason = "AUTOMATIONS_CHANGING"
    retry_after = 1.0


class WatcherTooSlow(ServiceError):
    """The caller did not read a response of a stream in time; it can resume after the last one that it read."""

    reason = "WATCHER_TOO_SLOW"
    retry_after = 1.0

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The client did not read a response within {seconds:g} seconds;"
            " resume from the cursor of the last one read"
        )


class Stopping(ServiceError):
    """The server is shutting down; the request was not stored, unless it was cut off while it was processed."""

    reason = "SERVER_STOPPING"
    retry_after = 1.0

    def __init__(self, *, cut_off: bool = False) -> None:
        super().__init__(
            "The server stopped before the request was finished; send it again with the same idempotency key"
            if cut_off
            else "The server is shutting down; requests without a response were not stored"
        )


class StorageError(ServiceError):
    """The database failed; nothing of this request was stored unless the message says otherwise."""


class StorageFull(StorageError):
    """The disk of the database is full; nothing was stored."""

    reason = "STORAGE_FULL"
    retry_after = 5.0


class StorageReadOnly(StorageError):
    """The database is read-only; nothing was stored."""

    reason = "STORAGE_READ_ONLY"
    retry_after = 5.0


class StorageBusy(StorageError):
    """Another process has locked the database, or it ended the transaction. Nothing was stored; try again."""

    reason = "STORAGE_BUSY"
    retry_after = 1.0


class StorageFailed(StorageError):
    """The database failed in a way that its operator has to repair; its own log says how. Nothing was stored."""

    reason = "STORAGE_FAILED"
    retry_after = 5.0


class StorageLate(StorageError):
    """The database has not confirmed a commit for some time. Nothing of this request was stored; try again shortly."""

    reason = "STORAGE_LATE"
    retry_after = 1.0


class StorageReplaced(StorageError):
    """A file of the database was deleted or replaced while the server ran. Nothing is stored until it is restarted."""

    reason = "STORAGE_REPLACED"
    retry_after = 5.0

    def __init__(self, file: str, happened: str) -> None:
        super().__init__(
            f"The file {file} of the database was {happened} while the server ran. Nothing is stored until the server"
            " is restarted; then send the request again with the same idempotency key",
            file=file,
        )


class StorageUnavailable(StorageError):
    """The database did not respond, and may have stored the request; send it again with the same idempotency key."""

    reason = "STORAGE_UNAVAILABLE"
    retry_after = 1.0

    def __init__(self, *, began: bool = True) -> None:
        super().__init__("" if began else "The database cannot be reached. Nothing was stored; try again shortly")


class InternalError(StorageError):
    """Internal error."""

    reason = "INTERNAL"
