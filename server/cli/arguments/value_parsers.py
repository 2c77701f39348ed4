"""Parsers of command-line values. Each one raises click.BadParameter."""

from __future__ import annotations

import ipaddress
import math
import re
from pathlib import Path
from typing import Any, Final

import click

MAX_PORT = 65_535
_YEAR = 365 * 86_400

_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def address(text: str) -> str:
    """Parse HOST:PORT; an IPv6 address is in brackets."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or "/" in bare or (":" in bare) is not (bare != host) or not _is_port(port):
        raise click.BadParameter(f'"{text}" is not HOST:PORT, such as 127.0.0.1:50051')
    return text


def networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Parse networks in CIDR notation, separated by commas."""
    return tuple(_network(part.strip()) for part in text.split(",") if part.strip())


def origins(text: str) -> tuple[str, ...]:
    """Parse origins of web pages, separated by commas; * for all."""
    return tuple(_origin(part.strip()) for part in text.split(",") if part.strip())


def secret(text: str) -> str:
    """Parse a key: printable ASCII, because it is sent in a header."""
    if not all("!" <= character <= "~" for character in text):
        raise click.BadParameter("a key must be printable ASCII without spaces")
    return text


def key(text: str) -> str:
    """Parse the key of a caller: an empty one does not stand for the admin key."""
    if not text:
        raise click.BadParameter("the key is empty; leave the option out to use the admin key of this machine")
    return secret(text)


def automation_id(text: str) -> str:
    """Parse the ID of an automation. A filter by its name would find nothing, and a watch wait for ever."""
    if not _ID.fullmatch(text):
        raise click.BadParameter(f'"{text}" is not the ID of an automation; signalbox automation list shows the IDs')
    return text


STDIN: Final = Path("<stdin>")
STDOUT: Final = Path("<stdout>")
"""What `-` stands for as a path; compared by identity, because a file may have the same name."""


class FilePath(click.Path):
    """A path that may not exist yet. An empty one does not stand for the folder that the command runs in.

    `stream` is what `-` stands for; without one, `-` is refused, so that no file of that name is made by accident. A
    file of that name is `./-`.
    """

    def __init__(self, *, files: bool = True, folders: bool = True, stream: Path | None = None) -> None:
        super().__init__(file_okay=files, dir_okay=folders, path_type=Path)
        self._stream = stream

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Raise BadParameter."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        if value == "-":
            if self._stream is None:
                self.fail("this command reads and writes no standard stream; ./- is a file of that name", param, ctx)
            return self._stream
        return super().convert(value, param, ctx)


class WholeNumber(click.IntRange):
    """A whole number in a range, written in digits."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number. Raise BadParameter, which says what would be right."""
        try:
            number = int(str(value))
        except ValueError:
            self.fail(f'"{value}" is not a whole number: write digits, {self._range()}', param, ctx)
        if number < (self.min or 0) or (self.max is not None and number > self.max):
            self.fail(f"{number} is out of range: it must be {self._range()}", param, ctx)
        return number

    def _range(self) -> str:
        least = self.min or 0
        return f"{least} or more" if self.max is None else f"from {least} to {self.max}"


class Seconds(click.FloatRange):
    """A number of seconds, at most those of a year: no timer can wait for `inf` or `nan`."""

    def __init__(self, *, min_open: bool = False) -> None:
        super().__init__(min=0, max=_YEAR, min_open=min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number. Raise BadParameter, which says what would be right."""
        least = "more than 0" if self.min_open else "0 or more"
        right = f"{least} and at most {_YEAR}, such as 2 or 0.5"
        try:
            number = float(str(value))
        except ValueError:
            self.fail(f'"{value}" is not a number of seconds: it must be {right}', param, ctx)
        if math.isnan(number) or not 0 <= number <= _YEAR or (self.min_open and number == 0):
            self.fail(f"{value} seconds are out of range: it must be {right}", param, ctx)
        return number


def seconds(text: str) -> int:
    """Parse a duration in seconds, minutes, hours or days; return seconds."""
    read = re.fullmatch("([0-9]{1,10})([smhd])", text)
    if read is None:
        raise click.BadParameter(f'"{text}" is not a duration such as 90s, 10m, 2h or 7d')
    return int(read[1]) * _SECONDS[read[2]]


def retention(text: str) -> int:
    """Parse a retention time of at least one second; return seconds."""
    kept = seconds(text)
    if not kept:
        raise click.BadParameter(f'"{text}" would keep nothing; the shortest time is 1s')
    return kept


def call_sampling(text: str) -> int:
    """Parse how many calls there are for each that is logged: 0 for `none`, 1 for `all`, N for `1/N`."""
    if text in {"none", "all"}:
        return int(text == "all")
    read = re.fullmatch("1/([1-9][0-9]{0,8})", text)
    if read is None:
        raise click.BadParameter(f'"{text}" is not none, all or 1/N such as 1/100')
    return int(read[1])


def _origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", text):
        raise click.BadParameter(f'"{text}" is not an origin such as https://app.example.com, or * for all')
    return text


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}; write networks such as 10.1.0.0/16,127.0.0.0/8") from None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= MAX_PORT


def is_loopback(server: str) -> bool:
    """Return whether HOST:PORT is a loopback address."""
    host = server.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
