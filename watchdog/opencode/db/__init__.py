"""opencode's SQLite file: read, proven to be one, and written with a guard."""
