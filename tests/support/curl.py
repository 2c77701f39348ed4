"""curl's command lines, as far as documentation uses them, sent by another client."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

_VALUED = {"-X": "method", "--request": "method", "--url": "url", "-H": "header", "--header": "header"}
_DATA = ("-d", "--data")


def commands(text: str) -> Iterator[str]:
    """Find the curl commands in a text; a command ends with the first line that no backslash continues."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.strip().startswith("curl "):
            command = line.strip()
            while command.endswith("\\"):
                command = command[:-1] + next(lines).strip()
            yield command


async def run(command: str) -> httpx.Response:
    """Do what the command says."""
    words = iter(shlex.split(command)[1:])
    method, url, content, headers = "", "", None, []
    for word in words:
        if word in _DATA:
            content = next(words)
        elif word in {"-s", "-i"}:
            continue
        elif (kind := _VALUED.get(word)) is None:
            url = word
        else:
            value = next(words)
            if kind == "method":
                method = value
            elif kind == "url":
                url = value
            else:
                name, _, said = value.partition(":")
                headers.append((name, said.strip()))
    async with httpx.AsyncClient() as client:
        return await client.request(
            method or ("GET" if content is None else "POST"), url, headers=headers, content=content
        )
