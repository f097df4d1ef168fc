"""opencode-watchdog: ends what will never end in an opencode server, and proves that it ended."""
