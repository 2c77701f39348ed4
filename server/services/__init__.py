"""The operations that gRPC and REST share, on plain values."""

from __future__ import annotations
