"""How a subscription pushes its matches, as values with their rules. Times and durations are microseconds.

A push is checked in form only: whether the server may connect to its host is decided by who sends the requests.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from automation.errors import InvalidSubscription
from automation.subscriptions.push_url import normal_url
from registry.errors import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

T = TypeVar("T")

_SECOND: Final = 1_000_000
DEFAULT_TIMEOUT: Final = 15 * _SECOND
MAX_TIMEOUT: Final = 60 * _SECOND
DEFAULT_IN_FLIGHT: Final = 16
MAX_IN_FLIGHT: Final = 128
MAX_SECRETS: Final = 2
MIN_SECRET_BYTES: Final = 24
MAX_SECRET_BYTES: Final = 64
MAX_HEADERS: Final = 20
MAX_HEADER_NAME: Final = 100
MAX_HEADER_VALUE: Final = 1_000
KEPT_ATTEMPTS: Final = 20
"""The number of last requests that are kept of a subscription."""

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the prefix of every secret

_NAME = re.compile("[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile("[!-~]([ \t!-~]*[!-~])?")
_RESERVED_PREFIXES: Final = ("webhook-", "signalbox-", "proxy-")
_RESERVED_NAMES: Final = frozenset(
    (
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


class PushAttempt(msgspec.Struct, frozen=True):
    """A request that pushed a match, and its outcome; `status` is 0 without a response."""

    webhook_id: str
    attempt: int
    sent_at: int
    duration: int
    status: int
    failure: str


@dataclass(frozen=True, slots=True)
class Push:
    """Where and how a subscription pushes. `secrets` has the newest first; `version` counts the changes.

    It is paused if `paused_at` is not 0, by the server if there is a `pause_reason`. `attempts` are the last ones that
    are stored, newest first.
    """

    url: str
    secrets: tuple[str, ...] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    timeout: int = DEFAULT_TIMEOUT
    max_in_flight: int = DEFAULT_IN_FLIGHT
    paused_at: int = 0
    pause_reason: str = ""
    version: int = 1
    attempts: tuple[PushAttempt, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class PushChanges:
    """The fields to change; UNSET leaves a field as it is.

    `rotate_secret` asks for a `new_secret` to be made; it is put before the newest of the others.
    """

    url: str | UnsetType = UNSET
    secrets: tuple[str, ...] | UnsetType = field(default=UNSET, repr=False)
    rotate_secret: bool = False
    new_secret: str = field(default="", repr=False)
    headers: Mapping[str, str] | UnsetType = field(default=UNSET, repr=False)
    timeout: int | UnsetType = UNSET
    max_in_flight: int | UnsetType = UNSET
    paused: bool | UnsetType = UNSET


def make_secret() -> str:
    """Return a new random secret."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def secret_bytes(secret: str) -> bytes:
    """Return the key of a secret. Raise ValueError unless it is `whsec_` and 24 to 64 bytes in base64."""
    text = secret.removeprefix(SECRET_PREFIX)
    # Python takes more padding than there must be, which the libraries of other languages refuse.
    is_whole = text != secret and len(text) % 4 == 0
    try:
        key = base64.b64decode(text, validate=True) if is_whole else b""
    except binascii.Error:
        key = b""
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(f"must be {SECRET_PREFIX} and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64")
    return key


def checked(push: Push) -> Push:
    """Return a push with its URL in normal form. Raise InvalidSubscription unless every field is within its limits."""
    try:
        push = replace(push, url=normal_url(push.url))
        violations = []
    except ValueError as error:
        violations = [Violation("subscription.push.url", "INVALID_URL", f"push.url {error}")]
    violations += _violations(push)
    if violations:
        raise InvalidSubscription(violations)
    return push


def change_push(push: Push | None, changes: PushChanges, now: int) -> Push:
    """Return a push with changes, checked; without one, a new push. Raise InvalidSubscription."""
    if push is None and changes.url is UNSET:
        message = "push.url is missing; it must be the URL to push to, since the subscription does not push yet"
        raise InvalidSubscription([Violation("subscription.push.url", "REQUIRED", message)])
    before = push or Push("", version=0)
    made = replace(
        before,
        url=_either(changes.url, before.url),
        secrets=_either(changes.secrets, before.secrets),
        headers=_either(changes.headers, before.headers),
        timeout=_either(changes.timeout, before.timeout),
        max_in_flight=_either(changes.max_in_flight, before.max_in_flight),
    )
    if changes.new_secret:
        made = replace(made, secrets=(changes.new_secret, *made.secrets[:1]))
    if changes.paused is not UNSET and changes.paused is not bool(made.paused_at):
        made = replace(made, paused_at=now if changes.paused else 0, pause_reason="")
    made = checked(made)
    return before if made == before else replace(made, version=before.version + 1)


def _either(value: T | UnsetType, other: T) -> T:
    return other if value is UNSET else value


def _violations(push: Push) -> Iterator[Violation]:
    if not 1 <= len(push.secrets) <= MAX_SECRETS:
        yield _violation("secrets", "OUT_OF_RANGE", f"has {len(push.secrets)} secrets; it must have 1 or {MAX_SECRETS}")
    keys = []
    for index, secret in enumerate(push.secrets[:MAX_SECRETS]):
        try:
            keys.append(secret_bytes(secret))
        except ValueError as error:
            yield _violation(f"secrets[{index}]", "INVALID_SECRET", str(error))
    if len(set(keys)) < len(keys):
        yield _violation("secrets", "DUPLICATE_SECRET", "has the same secret twice; the two must differ")
    if not _SECOND <= push.timeout <= MAX_TIMEOUT:
        yield _violation("timeout", "OUT_OF_RANGE", f"must be 1 to {MAX_TIMEOUT // _SECOND} seconds")
    if not 1 <= push.max_in_flight <= MAX_IN_FLIGHT:
        yield _violation("max_in_flight", "OUT_OF_RANGE", f"must be 1 to {MAX_IN_FLIGHT}")
    if len(push.headers) > MAX_HEADERS:
        yield _violation(
            "headers", "TOO_LARGE", f"has {len(push.headers):,} headers; at most {MAX_HEADERS} are allowed"
        )
        return
    yield from _header_violations(push.headers)


def _header_violations(headers: Mapping[str, str]) -> Iterator[Violation]:
    seen: set[str] = set()
    for index, (name, value) in enumerate(headers.items()):
        shown, folded = name if _NAME.fullmatch(name) else f"#{index + 1}", name.lower()
        if len(name) > MAX_HEADER_NAME or not _NAME.fullmatch(name):
            problem = f"has a name that is not one of HTTP, of at most {MAX_HEADER_NAME} characters"
        elif folded in _RESERVED_NAMES or folded.startswith(_RESERVED_PREFIXES):
            problem = "is set by the server itself; leave it out"
        elif folded in seen:
            problem = "is given twice, in different case"
        elif len(value) > MAX_HEADER_VALUE or not _VALUE.fullmatch(value):
            problem = (
                f"must have a value of 1 to {MAX_HEADER_VALUE:,} printable ASCII characters, without blanks around it"
            )
        else:
            seen.add(folded)
            continue
        yield _violation("headers", "INVALID_HEADER", f"{shown[:MAX_HEADER_NAME]} {problem}")


def _violation(name: str, reason: str, problem: str) -> Violation:
    return Violation(f"subscription.push.{name}", reason, f"push.{name} {problem}")
