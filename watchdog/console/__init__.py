"""Output: the standard streams, the log, the exit codes."""
