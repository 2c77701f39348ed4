"""The log of a server: how its entries are written, bounded and masked, and outages in few of them."""

from __future__ import annotations
