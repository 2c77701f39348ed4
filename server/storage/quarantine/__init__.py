"""SQL of the quarantine: refused events that a project keeps."""
