"""SQL of projects: their rows, heads and API keys, and their deletion."""
