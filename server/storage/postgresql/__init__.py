"""PostgreSQL: one database that several servers share."""
