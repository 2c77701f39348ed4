"""HTTP/1.1, whatever is served over it.

`server` listens; `connection`, `head`, `body_framing` and `exchange` implement HTTP/1.1, within the limits of
`connections`; and `body` reads and decodes bodies, within a limit on the bytes that are held at a time.
"""

from __future__ import annotations
