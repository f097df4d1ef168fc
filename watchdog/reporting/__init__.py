"""What people and machines read: documents, tables, log events, metrics."""
