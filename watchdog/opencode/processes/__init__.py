"""The processes that have the database open, and where they listen."""
