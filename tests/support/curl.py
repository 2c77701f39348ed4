"""curl's command lines, as far as documentation uses them, sent by another client."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from tests.support.service import http_client

if TYPE_CHECKING:
    import httpx

_VALUED = {"-X": "method", "--request": "method", "--url": "url", "-H": "header", "--header": "header"}
_DATA = ("-d", "--data")


async def run(command: str) -> httpx.Response:
    """Send the request of a curl command, and return the response."""
    words = iter(shlex.split(command.strip().replace("\\\n", " "))[1:])
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
    async with http_client() as client:
        return await client.request(
            method or ("GET" if content is None else "POST"), url, headers=headers, content=content
        )
