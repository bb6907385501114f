"""Compares finished runs: one table and one plot of all their curves.

  python -m launch.compare runs/lstm-0 runs/lstm-1 runs/transformer-0 --output=runs/comparison

Runs that differ only in their seed are one row, with the standard error of their mean; a row is
named after the first one's directory, up to its last hyphen. The output directory receives
comparison.html, comparison.svg and comparison.json. The last line of the output is JSON with the
rows.
"""

from pathlib import Path
from typing import Any

from absl import flags

from launch import program
from lm_jax.errors import UserError

OUTPUT = flags.DEFINE_string("output", None, "The directory to write to.", required=True)


def main() -> dict[str, Any]:
    """Prints the table, then returns its rows."""
    from lm_jax.reports.compare_runs import compare, table_of, write_comparison
    from lm_jax.reports.text_table import text_table

    workdirs = [Path(name) for name in program.arguments()]
    if not workdirs:
        raise UserError("give the work directories of the runs to compare")
    rows = compare(workdirs)
    cells = table_of(rows)
    for line in text_table(cells, "<" * len(cells[0])):
        program.log(line)
    path = write_comparison(rows, Path(OUTPUT.value))
    program.log(f"curves: {path}")
    return {"rows": [row._asdict() for row in rows]}


if __name__ == "__main__":
    program.run(main, takes_arguments=True)
