"""What is stuck, and why not: pure, without a clock, a file or a setting."""
