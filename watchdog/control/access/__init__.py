"""Who has access: keys, tokens, the connections at the door, and the answers to everybody else."""
