"""Scaling laws as pure functions of tables: fits, uncertainty, plots."""
