"""The errors of a request over HTTP.

HttpError                a RequestError: the request over HTTP is not one that is served
├── RouteNotFound        nothing is served at this path
├── MethodNotAllowed     something is served at this path, under other methods
├── BodyTooLarge         the body is larger than the server takes
├── BodiesTooLarge       the bodies being received are too large together
├── TooManyReads         too many reads are being served
├── BodyTooSlow          the body was not received in time
├── UnsupportedMediaType the body is declared as something other than JSON
├── UnsupportedCharset   the body is declared as other than UTF-8, and is not ASCII
├── UnsupportedEncoding  the content encoding of the body is not supported
├── MalformedBody        the body does not match its content encoding
├── RepeatedHeader       a single-valued header was sent more than once
├── MalformedJson        the body is not JSON
├── InvalidBody          a field of the body breaks its rule; carries violations
└── RateLimited          the key has reached its rate limit

The docstring of an error class is its message, unless its constructor makes another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.errors import Violation

MAX_SHOWN_PATH = 200


class HttpError(RequestError):
    """The request over HTTP is not one that is served."""


class RouteNotFound(HttpError):
    """Nothing is served at this path; `meant` is the one that was probably meant."""

    reason = "ROUTE_NOT_FOUND"

    def __init__(self, method: str, path: str, meant: str = "") -> None:
        shown = path if len(path) <= MAX_SHOWN_PATH else path[:MAX_SHOWN_PATH] + "…"
        hint = f"; did you mean {meant}?" if meant else ""
        super().__init__(f"There is no {method} {shown} here{hint}")


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
        super().__init__(f"The body is larger than {limit:,} bytes", limit=str(limit))


class BodiesTooLarge(HttpError):
    """The bodies that are being received are too large together; send this one again later."""

    reason = "BODIES_TOO_LARGE"
    retry_after = 1.0


class TooManyReads(HttpError):
    """Too many reads are being served; repeat this one later."""

    reason = "TOO_MANY_READS"
    retry_after = 1.0


class BodyTooSlow(HttpError):
    """The body was not received in time."""

    reason = "BODY_TOO_SLOW"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The body was not received within {seconds:g} seconds")


class UnsupportedMediaType(HttpError):
    """The body is declared as something other than JSON."""

    reason = "UNSUPPORTED_MEDIA_TYPE"

    def __init__(self, given: str, supported: Sequence[str] = ()) -> None:
        wanted = "The body must be JSON: send "
        names = " or ".join(f'"Content-Type: {kind}"' for kind in supported or ("application/json",))
        super().__init__(f'{"The body must be sent with " if supported else wanted}{names}, not "{given[:100]}"')
        self.supported = tuple(supported)


class UnsupportedCharset(HttpError):
    """The body is declared to be in another character set than UTF-8, and is not ASCII."""

    reason = "UNSUPPORTED_CHARSET"

    def __init__(self, charset: str) -> None:
        super().__init__(f'The body must be UTF-8, not "{charset[:100]}"')


class UnsupportedEncoding(HttpError):
    """The content encoding of the body is not supported; `supported` names those that are."""

    reason = "UNSUPPORTED_ENCODING"

    def __init__(self, given: str, supported: Sequence[str], header: str = "Content-Encoding") -> None:
        known = " or ".join(f'"{header}: {encoding}"' for encoding in supported)
        super().__init__(f'The body must be sent with {known}, not "{given[:100]}"')
        self.supported = tuple(supported)


class MalformedBody(HttpError):
    """The body does not match its content encoding."""

    reason = "MALFORMED_BODY"


class RepeatedHeader(HttpError):
    """A single-valued header was sent more than once."""

    reason = "REPEATED_HEADER"

    def __init__(self, name: str) -> None:
        super().__init__(f"The header {name} was sent more than once")


class MalformedJson(HttpError):
    """The body is not valid JSON."""

    reason = "MALFORMED_JSON"


class InvalidBody(HttpError):
    """A field of the body breaks its rule; the paths of the violations lead to it within the body."""

    reason = "INVALID_BODY"

    def __init__(self, violations: Sequence[Violation]) -> None:
        first = violations[0]
        place = f"{first.path}: " if first.path and not first.message.startswith(first.path) else ""
        super().__init__(f"{place}{first.message}", violations=violations)


class RateLimited(HttpError):
    """The key has reached its rate limit; `headers` are those that the dialect adds to the response."""

    reason = "RATE_LIMITED"

    def __init__(self, seconds: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        super().__init__(f"Too many requests; try again in {seconds} seconds", seconds=str(seconds))
        self.retry_after = float(seconds)
        self.headers = headers
