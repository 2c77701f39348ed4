"""The REST bridge: the event APIs of other systems, over the same objects that the gRPC servicers call.

`http_server` listens; `http_connection`, `http_head`, `http_bodies` and `http_exchange` implement HTTP/1.1, within the
limits of `http_connections`; and `body` reads and decodes bodies, of which only so many bytes are held at a time.
`app` takes a request to a route of the key's dialect; `dialects` has a package for each. `dialect` defines what such a
package declares: its `routes`, whose handlers take and return `messages`, and its `errors`. `operations` has what
several handlers share.
"""
