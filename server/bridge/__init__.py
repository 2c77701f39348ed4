"""The REST bridge: the event APIs of other systems over the same objects that the gRPC servicers call.

`http_server` listens, `http_connection` and `http_exchange` speak HTTP/1.1, `body` reads and decodes bodies, `app`
takes a request to the route of the key's dialect and writes the answer, `dialects` has a module for each. A dialect
converts, calls, converts; what it shares with the others is in `routes` (the table of its endpoints), `messages` (what
a handler takes and returns) and `dialect` (what a dialect is).
"""
