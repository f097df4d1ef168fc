"""Gathers the sources into one observation, and remembers things between two."""
