"""What the service refuses, and why.

ServiceError
├── AccessError
│   ├── KeyMissing               no credential came with the call
│   ├── KeyInvalid               the credential is unknown or revoked
│   ├── ScopeMissing             the key may not do this
│   ├── AdminRequired            only the admin key may do this
│   └── ProjectRequired          the admin key did not say for which project
├── RequestError
│   ├── UnstorableText           a text holds NUL, which PostgreSQL cannot store
│   ├── MalformedRequest         the bytes are not the message they should be
│   ├── InvalidArgument          a field breaks its rule; carries violations
│   ├── InvalidPageToken         the token is not one that this list gave out
│   ├── CursorInvalid            the cursor is not one that this project's match log gave out
│   ├── InvalidConsumer          a consumer's id, window or heartbeat breaks its rule
│   ├── ContactRequired          the request does not say whom it is about
│   ├── HttpError                the request over HTTP is not one that is served
│   │   ├── RouteNotFound        nothing is served at this path
│   │   ├── MethodNotAllowed     something is served at this path, under other methods
│   │   ├── BodyTooLarge         the body is larger than the server takes
│   │   ├── BodyTooSlow          the body did not come in time
│   │   ├── UnsupportedMediaType the body says that it is no JSON
│   │   ├── UnsupportedCharset   the body is declared as other than UTF-8, and is not ASCII
│   │   ├── UnsupportedEncoding  the content encoding of the body is not supported
│   │   ├── MalformedBody        the body does not match its content encoding
│   │   ├── RepeatedHeader       a single-valued header has two values
│   │   ├── MalformedJson        the body is not JSON
│   │   ├── InvalidBody          a field of the body breaks its rule; carries violations
│   │   └── RateLimited          the key made as many requests as it may for now
│   └── BatchRejected            an all-or-nothing batch holds events that are refused
├── ResourceError
│   ├── ProjectNotFound, ContactNotFound, EventNotFound, KeyNotFound
│   ├── ProjectAlreadyExists, ContactAlreadyExists, SecretInUse
│   ├── DefinitionInUse          active automations judge events of the definition's name
│   ├── CursorExpired            matches after the start point have been deleted
│   ├── CursorRewound            a failover or a restore lost the place to begin at
│   ├── SubscriptionInUse        consumers are connected to the subscription
│   ├── ConsumerReplaced         another stream of the same consumer has opened
│   ├── PositionBeyondHead       the start position is past the newest match
│   └── IdempotencyKeyReused     the key was used with other content
├── QueueFull                    more is waiting to be stored than the server will hold
├── WatcherTooSlow               the caller does not take the answers of a stream
├── Stopping                     the server is shutting down
└── StorageError
    ├── StorageFull              the disk is full
    ├── StorageReadOnly          the database cannot be written
    ├── StorageBusy              another process holds the database
    ├── StorageUnavailable       the database cannot be reached
    └── StorageRefused           the database refused a statement; never the caller's fault

`reason` is the machine-readable name that callers see; `server.status` gives each its gRPC code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from registry.errors import Violation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


MAX_SHOWN_PATH = 200


def _counted(count: int, noun: str) -> str:
    """Return a count and its noun, such as `2 consumers`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class ServiceError(Exception):
    """An error with a reason that callers can act on."""

    reason: ClassVar[str]
    retry_after: float = 0.0
    """Seconds after which trying again may help, where the caller is told so."""

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = metadata or {}
        self.violations = tuple(violations)


class AccessError(ServiceError):
    """The caller may not make this call."""


class KeyMissing(AccessError):
    """No credential came with the call."""

    reason = "API_KEY_MISSING"

    def __init__(self) -> None:
        super().__init__('The API key is missing; send the metadata "authorization: Bearer <key>"')


class KeyInvalid(AccessError):
    """The credential is unknown or revoked."""

    reason = "API_KEY_INVALID"

    def __init__(self) -> None:
        super().__init__("The API key is unknown or revoked")


class ScopeMissing(AccessError):
    """The key may not do this."""

    reason = "SCOPE_MISSING"

    def __init__(self, scope: str) -> None:
        super().__init__(f'The API key lacks the scope "{scope}"', metadata={"scope": scope})


class AdminRequired(AccessError):
    """Only the admin key may do this."""

    reason = "ADMIN_REQUIRED"

    def __init__(self) -> None:
        super().__init__("Only the admin key may call this RPC")


class ProjectRequired(AccessError):
    """The admin key did not say for which project it calls."""

    reason = "PROJECT_REQUIRED"

    def __init__(self) -> None:
        super().__init__('The admin key must name a project; send the metadata "signalbox-project: <id or name>"')


class RequestError(ServiceError):
    """The request itself is at fault."""


class MalformedRequest(RequestError):
    """The bytes are not the message that the method takes."""

    reason = "MALFORMED_REQUEST"


class UnstorableText(RequestError):
    """A text holds NUL, which PostgreSQL cannot store or look for."""

    reason = "UNSTORABLE_TEXT"

    def __init__(self, path: str = "") -> None:
        message = f"{path or 'A text in the request'} contains the character U+0000, which cannot be stored"
        super().__init__(message, violations=[Violation(path, self.reason, message)] if path else ())


class InvalidArgument(RequestError):
    """A field breaks its rule."""

    reason = "INVALID_ARGUMENT"


class InvalidPageToken(RequestError):
    """The token is not one that this list gave out for these filters."""

    reason = "INVALID_PAGE_TOKEN"

    def __init__(self) -> None:
        super().__init__(
            "The page token is not valid for this list and these filters; start again without a page token"
        )


class CursorInvalid(RequestError):
    """The cursor is not one that a watch of this project's matches answered."""

    reason = "CURSOR_INVALID"

    def __init__(self) -> None:
        super().__init__("The cursor is not valid; use one that WatchMatches returned in this project")


class InvalidConsumer(RequestError):
    """The id, the window or the heartbeat of a consumer breaks its rule."""

    reason = "INVALID_CONSUMER"


class BatchRejected(RequestError):
    """An all-or-nothing batch holds events that are refused; nothing of it is stored."""

    reason = "BATCH_REJECTED"


class HttpError(RequestError):
    """The request over HTTP is not one that is served."""


class RouteNotFound(HttpError):
    """Nothing is served at this path."""

    reason = "ROUTE_NOT_FOUND"

    def __init__(self, method: str, path: str) -> None:
        shown = path if len(path) <= MAX_SHOWN_PATH else path[:MAX_SHOWN_PATH] + "…"
        super().__init__(f"There is no {method} {shown} here")


class MethodNotAllowed(HttpError):
    """Something is served at this path, under the other methods in `allowed`."""

    reason = "METHOD_NOT_ALLOWED"

    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{method} is not allowed at {path}; allowed: {', '.join(allowed)}")
        self.allowed = tuple(allowed)


class BodyTooLarge(HttpError):
    """The body is larger than the server takes."""

    reason = "BODY_TOO_LARGE"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than {limit:,} bytes", metadata={"limit": str(limit)})


class BodyTooSlow(HttpError):
    """The body did not come in time."""

    reason = "BODY_TOO_SLOW"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The body was not received within {seconds:g} seconds")


class UnsupportedMediaType(HttpError):
    """The body says that it is no JSON."""

    reason = "UNSUPPORTED_MEDIA_TYPE"

    def __init__(self, given: str) -> None:
        super().__init__(f'The body must be JSON: send "Content-Type: application/json", not "{given[:100]}"')


class UnsupportedCharset(HttpError):
    """The body is declared to be in another character set than UTF-8, and is not ASCII."""

    reason = "UNSUPPORTED_CHARSET"

    def __init__(self, charset: str) -> None:
        super().__init__(f'The body must be UTF-8, not "{charset[:100]}"')


class UnsupportedEncoding(HttpError):
    """The content encoding of the body is not supported; `supported` names those that are."""

    reason = "UNSUPPORTED_ENCODING"

    def __init__(self, given: str, supported: Sequence[str]) -> None:
        known = " or ".join(f'"Content-Encoding: {encoding}"' for encoding in supported)
        super().__init__(f'The body must be sent with {known}, not "{given[:100]}"')
        self.supported = tuple(supported)


class MalformedBody(HttpError):
    """The body does not match its content encoding."""

    reason = "MALFORMED_BODY"


class RepeatedHeader(HttpError):
    """A single-valued header was sent with two values."""

    reason = "REPEATED_HEADER"

    def __init__(self, name: str) -> None:
        super().__init__(f"The header {name} was sent twice, with different values")


class MalformedJson(HttpError):
    """The body is not JSON."""

    reason = "MALFORMED_JSON"

    def __init__(self) -> None:
        super().__init__("The body is not valid JSON")


class InvalidBody(HttpError):
    """A field of the body breaks its rule; the paths of the violations lead to it within the body."""

    reason = "INVALID_BODY"

    def __init__(self, violations: Sequence[Violation]) -> None:
        first = violations[0]
        place = f"{first.path}: " if first.path and not first.message.startswith(first.path) else ""
        super().__init__(f"{place}{first.message}", violations=violations)


class RateLimited(HttpError):
    """The key made as many requests as it may for now; `headers` are what the dialect says of that."""

    reason = "RATE_LIMITED"

    def __init__(self, seconds: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        super().__init__(f"Too many requests; try again in {seconds} seconds", metadata={"seconds": str(seconds)})
        self.retry_after = float(seconds)
        self.headers = headers


class ResourceError(ServiceError):
    """Something that the request names is missing, taken or in another state."""


class ProjectNotFound(ResourceError):
    """No project has this id or name."""

    reason = "PROJECT_NOT_FOUND"

    def __init__(self, project: str) -> None:
        super().__init__(f'There is no project "{project}"', metadata={"project": project})


class ProjectAlreadyExists(ResourceError):
    """Another project has this name."""

    reason = "PROJECT_ALREADY_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f'A project named "{name}" already exists', metadata={"name": name})


class ContactNotFound(ResourceError):
    """No contact of the project has this id or address."""

    reason = "CONTACT_NOT_FOUND"

    def __init__(self, contact: str) -> None:
        super().__init__(f'There is no contact "{contact}" in this project', metadata={"contact": contact})


class ContactAlreadyExists(ResourceError):
    """A contact of the project has this address."""

    reason = "CONTACT_ALREADY_EXISTS"

    def __init__(self, email: str) -> None:
        super().__init__(f'A contact with the email address "{email}" already exists', metadata={"email": email})


class DefinitionInUse(ResourceError):
    """Active automations judge events of the definition's name."""

    reason = "DEFINITION_IN_USE"

    def __init__(self, name: str, count: int) -> None:
        super().__init__(
            f'Event "{name}" is used by {_counted(count, "active automation")}; pause them first',
            metadata={"event": name, "count": str(count)},
        )


class ContactRequired(RequestError):
    """The request does not say whom it is about."""

    reason = "CONTACT_REQUIRED"

    def __init__(self) -> None:
        super().__init__("The contact is missing; give its ID or email address")


class EventNotFound(ResourceError):
    """No recorded event of the project has this id."""

    reason = "EVENT_NOT_FOUND"

    def __init__(self, event_id: str) -> None:
        super().__init__(f'No event with the ID "{event_id}" is recorded in this project', metadata={"id": event_id})


class KeyNotFound(ResourceError):
    """No API key has this id."""

    reason = "API_KEY_NOT_FOUND"

    def __init__(self, key_id: str) -> None:
        super().__init__(f'There is no API key with the ID "{key_id}"', metadata={"id": key_id})


class SecretInUse(ResourceError):
    """The secret to take over belongs to a key already."""

    reason = "SECRET_IN_USE"

    def __init__(self) -> None:
        super().__init__("An API key with this secret already exists")


class IdempotencyKeyReused(ResourceError):
    """The idempotency key was used before with other content."""

    reason = "IDEMPOTENCY_KEY_REUSED"

    def __init__(self, key: str) -> None:
        super().__init__(
            f'The idempotency key "{key}" was used before with other content', metadata={"idempotency_key": key}
        )


class CursorExpired(ResourceError):
    """Matches after the start point have been deleted."""

    reason = "CURSOR_EXPIRED"

    def __init__(self, earliest: int) -> None:
        super().__init__(
            "Matches after this start point have been deleted;"
            f" the earliest available match is at position {earliest:,}",
            metadata={"earliest_position": str(earliest)},
        )


class CursorRewound(ResourceError):
    """A failover or a restore lost the match or event that a cursor identifies."""

    reason = "CURSOR_REWOUND"

    def __init__(self, position: int, head: int) -> None:
        super().__init__(
            f"The log was restored to an earlier state after this cursor was returned at position {position:,}; it now"
            f" ends at position {head:,}. Start again at a position or time before the restore",
            metadata={"position": str(position), "head_position": str(head)},
        )


class SubscriptionInUse(ResourceError):
    """Consumers are connected to the subscription."""

    reason = "SUBSCRIPTION_IN_USE"

    def __init__(self, subscription: str, consumers: int) -> None:
        super().__init__(
            f"The subscription has {_counted(consumers, 'connected consumer')};"
            " disconnect them, or delete it with force",
            metadata={"subscription": subscription, "consumer_count": str(consumers)},
        )


class ConsumerReplaced(ResourceError):
    """Another stream has opened under the id of this consumer, and has its leases."""

    reason = "CONSUMER_REPLACED"

    def __init__(self, consumer_id: str) -> None:
        super().__init__(
            f'Another stream has been opened with the consumer ID "{consumer_id}"', metadata={"consumer": consumer_id}
        )


class PositionBeyondHead(ResourceError):
    """The start position is past the newest match."""

    reason = "POSITION_BEYOND_HEAD"

    def __init__(self, position: int, head: int) -> None:
        super().__init__(
            f"The requested start position {position:,} is past the newest match (position {head:,})",
            metadata={"position": str(position), "head_position": str(head)},
        )


class QueueFull(ServiceError):
    """More is waiting to be stored than the server will hold; nothing of this request was stored."""

    reason = "QUEUE_FULL"
    retry_after = 0.5

    def __init__(self) -> None:
        super().__init__("Too many events are waiting to be stored. Nothing was stored; try again shortly")


class WatcherTooSlow(ServiceError):
    """The caller did not take an answer of a stream in time; it can resume after the last one that it read."""

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
    """The database did not do its part; nothing of this request was stored unless the cause says otherwise."""


class StorageFull(StorageError):
    """The disk is full."""

    reason = "STORAGE_FULL"
    retry_after = 5.0

    def __init__(self) -> None:
        super().__init__("The disk of the database is full; nothing was stored")


class StorageReadOnly(StorageError):
    """The database cannot be written."""

    reason = "STORAGE_READ_ONLY"

    def __init__(self) -> None:
        super().__init__("The database is read-only; nothing was stored")


class StorageBusy(StorageError):
    """Another process holds the database."""

    reason = "STORAGE_BUSY"

    def __init__(self) -> None:
        super().__init__("Another process has locked the database. Nothing was stored; try again")


class StorageUnavailable(StorageError):
    """The database cannot be reached, or the connection broke before it confirmed."""

    reason = "STORAGE_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("The database did not respond; send the request again with the same idempotency key")


class StorageRefused(StorageError):
    """The database refused a statement: a defect of the server, not of the request."""

    reason = "INTERNAL"

    def __init__(self) -> None:
        super().__init__("Internal error")
