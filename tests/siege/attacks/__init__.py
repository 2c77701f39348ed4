"""The attacks, by the number of their row."""
