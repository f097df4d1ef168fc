"""opencode's servers over HTTP."""
