"""No response is larger than a client of default limits takes, whatever is stored."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio

from registry.definitions.schema import MAX_BYTES, Property, PropertyType, Schema, check_schema
from registry.errors import InvalidSchema
from server.rpc.contract import SERVICES
from tests.support.largest import Largest, filled
from tests.support.receiver import LOOPBACK
from tests.support.service import Client, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.stores import Store

METHODS = sorted(
    re.sub("(?<!^)(?=[A-Z])", "_", method.name).lower() for service in SERVICES for method in service.methods
)


@pytest_asyncio.fixture(scope="module")
async def largest(lasting_store: Store) -> AsyncIterator[Largest]:
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(serving(lasting_store.url, push_networks=LOOPBACK))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(service.address))
        yield await filled(service, Client(channel, ""))


# Responses are cut by their sizes on the wire, after their rows are read.
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("method", METHODS)
async def test_a_client_of_default_limits_takes_the_largest_response(largest: Largest, method: str) -> None:
    await getattr(largest, method)()


def test_a_schema_has_a_limit_in_bytes() -> None:
    values = tuple(f"{number:0255}" for number in range(100))
    properties = [Property(f"p{number}", PropertyType.STRING, suggested_values=values) for number in range(50)]
    check_schema(Schema(tuple(properties[:20])))
    with pytest.raises(InvalidSchema) as caught:
        check_schema(Schema(tuple(properties)))
    (violation,) = caught.value.violations
    assert (violation.path, violation.reason) == ("schema", "TOO_LARGE")
    assert f"at most {MAX_BYTES:,}" in violation.message
