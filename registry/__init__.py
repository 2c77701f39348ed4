"""What an event is: property schemas, coercion, revisions and compatibility.

Knows no gRPC, no HTTP and no protobuf; imports nothing of Signalbox but itself.
"""

from __future__ import annotations
