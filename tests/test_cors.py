"""Calls of web pages of other origins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from server.cli.arguments.value_parsers import origins
from server.http.cors import MAX_AGE_SECONDS
from tests.support.bridge import http_client
from tests.support.messages import ADA, ORDER
from tests.support.service import serving

if TYPE_CHECKING:
    import httpx

    from tests.support.service import Client, Service
    from tests.support.stores import Store

PAGE, OTHER = "https://app.example.com", "https://evil.example.com"
SEND = "/signalbox.v1.EventIngest/SendEvent"
ASKED = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


def of_cors(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


async def call(service: Service, client: Client, origin: str, path: str = SEND) -> httpx.Response:
    headers = {"authorization": f"Bearer {client.secret}"} | ({"origin": origin} if origin else {})
    async with http_client(service) as http:
        if path == SEND:
            return await http.post(path, json={"event": {"name": ORDER, "email": ADA}}, headers=headers)
        return await http.get(path, headers=headers)


async def preflight(service: Service, origin: str, path: str = SEND) -> httpx.Response:
    async with http_client(service) as http:
        return await http.options(path, headers={"origin": origin, **ASKED})


async def test_no_other_origin_may_call_by_default(store: Store) -> None:
    async with serving(store.url) as service:
        client = await service.shop()
        assert of_cors(await call(service, client, PAGE)) == {}
        asked = await preflight(service, PAGE)
        assert (asked.status_code, of_cors(asked)) == (405, {})


async def test_pages_of_the_origins_that_are_set_may_call(store: Store) -> None:
    async with serving(store.url, cors_origins=(PAGE, "http://localhost:3000")) as service:
        client = await service.shop()
        for path in (SEND, "/v1/matches/none", "/healthz"):
            asked = await preflight(service, PAGE, path)
            assert (asked.status_code, asked.content) == (204, b"")
            assert of_cors(asked) == {
                "access-control-allow-origin": PAGE,
                "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE",
                "access-control-allow-headers": "authorization,content-type",
                "access-control-max-age": str(MAX_AGE_SECONDS),
            }
            assert asked.headers["vary"] == "origin"
            found = await call(service, client, PAGE, path)
            assert found.headers["access-control-allow-origin"] == PAGE
            assert "retry-after" in found.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in found.headers
        assert (await call(service, client, PAGE)).json()["receipt"]["event"]["name"] == ORDER


async def test_pages_of_other_origins_may_not(store: Store) -> None:
    async with serving(store.url, cors_origins=(PAGE,)) as service:
        client = await service.shop()
        for origin in (OTHER, f"{PAGE}:8443", "null", PAGE.upper(), ""):
            assert of_cors(await call(service, client, origin)) == {}
        asked = await preflight(service, OTHER)
        assert (asked.status_code, of_cors(asked)) == (405, {})


async def test_all_pages_may_call_where_all_are_allowed_but_never_with_cookies(store: Store) -> None:
    async with serving(store.url, cors_origins=("*",)) as service:
        client = await service.shop()
        found = of_cors(await call(service, client, OTHER))
        assert found["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in found


def test_origins_are_parsed(backend: object) -> None:
    assert origins(f"{PAGE}, http://localhost:3000,*") == (PAGE, "http://localhost:3000", "*")
    assert origins("") == ()
    for wrong in ("app.example.com", f"{PAGE}/", "https://", f"{PAGE}/x", "ftp://x", "https://a b", "https://*.x.y"):
        with pytest.raises(click.BadParameter, match="is not an origin such as"):
            origins(wrong)
