"""The nouns: what is read, what is judged, what is done."""
