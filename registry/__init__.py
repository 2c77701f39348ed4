"""The schema registry: event definitions and their revisions, validation and coercion, compatibility.

It knows no gRPC, no HTTP and no protobuf, and imports no other package of Signalbox.
"""

from __future__ import annotations
