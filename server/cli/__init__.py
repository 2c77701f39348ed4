"""The command line. All commands but `serve` and `migrate` are clients: they talk gRPC to a running server."""

from __future__ import annotations
