"""Traces: which trace a call belongs to, and the spans of its way from the caller to the delivery of its matches."""
