"""Who may: keys, tokens, the crowd at the door, and what is answered to those who may not."""
