"""SQL of erasures: what is stored about a person."""
