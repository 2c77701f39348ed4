"""The REST bridge: the event APIs of other systems, over the same objects that the servicers call.

`app` takes a request to a route of the key's dialect; `dialects` has a package for each. `dialect` defines what such a
package declares: its `routes`, whose handlers take and return `messages`, and its `errors`. `operations` has what
several handlers share.
"""

from __future__ import annotations
