"""What projects have in common, shared fairly: turns, amounts, the event loop's time, and threads for long work."""
