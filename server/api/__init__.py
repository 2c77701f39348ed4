"""The gRPC front door: converts, calls, converts. No rule of the business lives here."""

from __future__ import annotations
