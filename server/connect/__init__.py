"""The RPCs of the contract over HTTP, by the Connect protocol, and matches as server-sent events.

A second transport of `rpc`, beside gRPC: `app` finds the method of a request, `unary` and `streams` carry its call,
`codecs` and `compression` read and write messages, and `errors` writes errors. The protocol is described at
https://connectrpc.com/docs/protocol.
"""

from __future__ import annotations
