"""Something is ended, which is proven, or taken back."""
