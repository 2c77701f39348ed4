"""The RPCs of the contract, whatever carries them: servicers, converters of messages, and the limits of calls."""

from __future__ import annotations
