"""Composition: opens what a command, the service or a server needs, from settings."""
