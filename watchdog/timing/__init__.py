"""The two kinds of time: the clock that counts, when the next look comes, and what is told of a look."""
