"""Counts with their nouns, for messages."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Returns a count with its noun: 1 document, 2,000 documents.

    Args:
      noun: in the singular.
      plural: the noun for other counts; "": the singular with an `s`.
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
