"""SQL: connections to SQLite and PostgreSQL, migrations, and the server's own tables.

Here is what all of it shares, and the SQL of single tables. `opening` alone knows both databases.
"""

from __future__ import annotations
