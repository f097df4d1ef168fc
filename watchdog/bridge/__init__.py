"""The plugin that opens a door to an opencode process without a port: put there, looked for, taken away."""
