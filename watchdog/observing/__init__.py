"""Sources gathered into one observation, and what is remembered between two."""
