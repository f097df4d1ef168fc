"""The two kinds of time: the countable clock, when the next look comes, and what listeners hear of a look."""
