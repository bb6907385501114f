"""A run and its work directory: train it, record it, read it back."""
