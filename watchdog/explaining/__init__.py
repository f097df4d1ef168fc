"""Why one session is stuck or spared; decides nothing."""
