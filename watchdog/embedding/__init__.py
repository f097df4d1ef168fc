"""Inside a Python server."""
