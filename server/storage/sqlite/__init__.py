"""SQLite: one process, and a file that it alone writes."""
