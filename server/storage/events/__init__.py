"""SQL of the log of events."""
