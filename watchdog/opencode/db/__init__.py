"""opencode's SQLite file: read, shown to be one, and written with a guard."""
