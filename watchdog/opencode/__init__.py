"""The adapters: all input and output with opencode."""
