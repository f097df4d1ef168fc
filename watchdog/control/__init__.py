"""The HTTP API and the page of a running watchdog. Nothing here is imported unless it is switched on."""
