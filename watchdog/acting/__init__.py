"""Ends something and proves it, or takes it back."""
