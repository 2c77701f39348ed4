"""What happens to a server besides attacks, by the number of the row: one thing is done, and its consequences timed."""
