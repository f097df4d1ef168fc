"""Composition: what a command, the service or a server needs, opened from settings."""
