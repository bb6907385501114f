"""Whole numbers in texts that anybody may have written."""

import re

_DIGITS = re.compile(r"[0-9]{1,18}")  # below 2**63; Python refuses texts of 4,301 digits


def whole_number(text: str) -> int | None:
    """Returns the number that a text of up to 18 digits spells, None for any other text."""
    return int(text) if _DIGITS.fullmatch(text) else None
