from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.service import Client


async def test_a(shop: Client) -> None:
    assert (await shop.send()).event.position == 1

import pytest
@pytest.mark.parametrize("x", range(20))
async def test_b(shop: Client, x) -> None:
    assert (await shop.send()).event.position == 1
