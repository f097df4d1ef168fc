"""What `check` finds: the settings, the file, the servers, the journal."""
