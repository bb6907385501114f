"""Exact sums over an evaluation set, and the metrics derived from them."""
