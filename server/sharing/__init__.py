"""Resources that all projects use, shared fairly: turns, amounts, time on the event loop, a thread for long work."""
