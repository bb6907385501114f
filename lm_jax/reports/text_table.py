"""Tables as lines of text, for the terminal."""

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Returns rows of cells as lines with aligned columns.

    Args:
      rows: all of the same length.
      sides: `<` or `>` for each column, the side to which its cells are aligned.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
