"""What people configure: from where, in which units, and what is wrong with it."""
