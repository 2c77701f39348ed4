"""The command line. All commands but `serve`, `migrate` and `definition test` are gRPC clients."""

from __future__ import annotations
