"""The running service: gRPC servicers, the ingest pipeline, storage, the command line and the wiring.

The only package that sees gRPC and the generated code.
"""

from __future__ import annotations
