"""Breaks lines of the core, one at a time, and sees whether the tests notice."""
