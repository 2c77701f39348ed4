"""Authentication and authorization of callers, shared by gRPC and REST."""

from __future__ import annotations
