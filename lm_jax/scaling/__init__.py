"""Scaling laws: what a run costs, and what it buys."""
