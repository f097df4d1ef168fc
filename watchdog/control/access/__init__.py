"""Who may: keys, tokens, the connections at the door, and what is answered to those who may not."""
