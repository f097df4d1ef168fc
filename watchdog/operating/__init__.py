"""What a person may ask for: release, hold, explain; asked of a command or of the running loop."""
