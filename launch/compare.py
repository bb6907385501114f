"""Compares finished runs: figures, differences on the same documents, settings that differ.

  python -m launch.compare runs/lstm-0 runs/lstm-1 runs/transformer-0
  python -m launch.compare runs/lstm-0 runs/lstm-1 runs/transformer-0 --output=runs/comparison

Runs that differ only in their seed are one row, with the standard error of their mean; runs of one
seed are rows of their own. A row is named after the first one's directory, without a number after
the last hyphen. The best row is the first, and the others are compared with it document by
document: interval and p-value are from a bootstrap over the documents of the validation split.

With --output the directory receives comparison.html with all curves, comparison.svg and
comparison.json. The last line of the output is JSON with the rows.
"""

from pathlib import Path
from typing import Any

from absl import flags

from launch import program
from lm_jax.errors import UserError

OUTPUT = flags.DEFINE_string("output", None, "The directory for the page with all curves.")


def main() -> dict[str, Any]:
    """Prints the tables, then returns the rows."""
    output = program.output_directory(OUTPUT.value)
    from lm_jax.reports import comparison_page
    from lm_jax.reports.compare_runs import compare

    workdirs = [Path(name) for name in program.arguments()]
    if not workdirs:
        raise UserError("give the work directories of the runs to compare")
    rows = compare(workdirs)
    differences = comparison_page.differences_of(rows)
    meaning = [comparison_page.meaning_of_differences(rows)] if differences else []
    for cells, notes in (
        (comparison_page.table_of(rows), []),
        (differences, [*meaning, *comparison_page.remarks_on(rows)]),
        (comparison_page.settings_of(rows), []),
    ):
        if cells:
            program.log_table(cells, "<" * len(cells[0]))
        for note in notes:
            program.log(note)
    if output:
        program.log(f"page: {comparison_page.write_comparison(rows, output)}")
    return {"rows": [comparison_page.record_of(row) for row in rows]}


if __name__ == "__main__":
    program.run(main, takes_arguments=True)
