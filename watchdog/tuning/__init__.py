"""What the history says about the limits; decides nothing, and reads nothing itself."""
