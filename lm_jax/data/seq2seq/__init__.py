"""Pairs of texts: reading, splitting, packing, and batches."""
