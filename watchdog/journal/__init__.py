"""The watchdog's own record, in a file of its own."""
