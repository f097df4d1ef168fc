"""How words get out: the standard streams, the log, the exit codes."""
