"""Sessions and journal in PostgreSQL: the store, the lease, the replicas, and the watchdog's own tables."""
