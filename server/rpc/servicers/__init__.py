"""The gRPC servicers: one module for each service of the contract."""

from __future__ import annotations
