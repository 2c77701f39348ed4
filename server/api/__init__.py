"""gRPC: converts, calls, converts. No business rules live here."""

from __future__ import annotations
