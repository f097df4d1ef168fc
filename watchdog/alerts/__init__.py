"""Whom to tell, when, and how."""
