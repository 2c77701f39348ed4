"""The URL that a subscription pushes to: its rules, and its normal form.

Parsers disagree about unusual URLs: what one takes for a path is a host to another. So only URLs that all parsers read
in the same way are accepted: printable ASCII but for the host, whose name is written in IDNA, no backslashes, no user,
and IPv4 addresses as four decimal numbers only.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import urlsplit

import idna

MAX_URL: Final = 2_048

_UNSAFE = re.compile(r"[\x00-\x20\x7f\\<>\"^`{|}]")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(:(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile("[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile("[0-9]+|0x[0-9a-f]*")


def normal_url(url: str) -> str:
    """Return a URL with its host in lower case and IDNA. Raise ValueError with its problem, to follow its name."""
    if len(url) > MAX_URL:
        raise ValueError(f"has {len(url):,} characters; at most {MAX_URL:,} are allowed")
    if _UNSAFE.search(url):
        raise ValueError("must not contain blanks, control characters, backslashes or other characters to be escaped")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise ValueError("must begin with https:// or http://")
    if "#" in rest:
        raise ValueError("must not have a fragment; leave out what follows #")
    authority, path = _divide(rest)
    if "@" in authority:
        raise ValueError("must not have a user or password; send them as the header Authorization")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise ValueError("must have a host, and after it nothing but a port of 1 to 65535")
    port = parts["port"]
    if port is not None and not 1 <= int(port) <= 65_535:
        raise ValueError(f"has the port {port}; it must be 1 to 65535")
    if not path.isascii():
        raise ValueError("must not contain characters beyond ASCII after its host; percent-encode them")
    normal = f"{scheme.lower()}://{_normal_host(parts['host'])}{f':{port}' if port else ''}{path or '/'}"
    # The standard library must find the same host in the URL as was checked here.
    if urlsplit(normal).netloc != normal.split("/")[2]:
        raise ValueError("is not read alike by everybody; write it without special characters")
    return normal


def _divide(rest: str) -> tuple[str, str]:
    """Return the authority, and all that follows it, beginning with a slash if there is any."""
    end = min((place for mark in "/?" if (place := rest.find(mark)) >= 0), default=len(rest))
    path = rest[end:]
    return rest[:end], f"/{path}" if path.startswith("?") else path


def _normal_host(host: str) -> str:
    if host.startswith("["):
        try:
            return f"[{IPv6Address(host[1:-1] if '%' not in host else '')}]"
        except ValueError:
            raise ValueError("has a host in brackets that is not an IPv6 address") from None
    try:
        name = host.lower() if host.isascii() else idna.encode(host, uts46=True).decode()
    except (idna.IDNAError, UnicodeError):
        raise ValueError("has a host that is not a valid name") from None
    labels = name.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _decimal_address(name)
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("has a host that is not a valid name" if host else "must have a host")
    return name


def _decimal_address(host: str) -> str:
    try:
        return str(IPv4Address(host))
    except ValueError:
        raise ValueError("has a host that is a number; write an IPv4 address as four decimal numbers") from None
