"""Damaged and hostile input for every reader: it may raise UserError and OSError, nothing else.

`targets.py` is the table of readers with a small whole file for each, `mutations.py` damages them.
`test_targets.py` tries a few of each; `python -m tests.fuzz TARGET --seconds=600` tries more.
"""
