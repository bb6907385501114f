"""Labelled texts and images: reading, splitting, and batches."""
