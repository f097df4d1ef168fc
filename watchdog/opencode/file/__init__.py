"""opencode's file itself: where it is, whether it is one and the same, and who has it open under which name."""
