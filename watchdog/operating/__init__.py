"""What a person may ask for: release, hold, explain; from a command or from the running loop."""
