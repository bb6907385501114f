r"""Shows what one step of a run did: its batch, its loss by row, its gradient by parameter.

  python -m launch.replay --workdir=runs/quickstart --step=120
  python -m launch.replay --workdir=runs/quickstart --step=120 --rows=10 --save_batch=batch.npz

For an update that was skipped, or a loss that jumped. The steps since the checkpoint before are
taken again, from the same data, and change no file of the run. On the machine that trained it they
are the same bit for bit, which is checked against metrics.jsonl. Rows that make a gradient infinite
or not a number come first, then the costliest ones.

--save_batch writes the arrays of the batch. The last line of the output is JSON with all figures.
"""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import data_flags, program

if TYPE_CHECKING:
    from lm_jax.runs.replay import Replay

WORKDIR = flags.DEFINE_string("workdir", None, "The work directory of the run.", required=True)
STEP = flags.DEFINE_integer("step", None, "The step, counted from 1.", required=True, lower_bound=1)
ROWS = flags.DEFINE_integer("rows", 5, "Rows to show, with their gradient alone.", 0)
SAVE_BATCH = flags.DEFINE_string("save_batch", None, "The npz file that receives the batch.")
flags.adopt_module_key_flags(data_flags)  # --help shows them

_PARAMETERS, _CHARACTERS = 8, 60


def main() -> dict[str, Any]:
    """Replays the step and prints its parts."""
    from lm_jax.runs.replay import replay

    output = program.output_file(SAVE_BATCH.value, "save_batch")
    found = replay(
        Path(WORKDIR.value),
        STEP.value,
        num_rows=ROWS.value,
        moved=data_flags.moved(),
        log=program.log,
    )
    _print(found)
    if output is not None:
        _save(output, found)
        program.log(f"the batch: {output}")
    return _json(found)


def _save(path: Path, found: "Replay") -> None:
    import numpy as np

    from lm_jax.atomic_files import write_bytes

    arrays = io.BytesIO()
    np.savez(arrays, allow_pickle=False, **found.batch)
    write_bytes(path, arrays.getvalue())


def _print(found: "Replay") -> None:
    start = f"the checkpoint of step {found.start}" if found.start else "the first state"
    shown = dict(found.metrics)
    skipped = "; the update was skipped" if shown.pop("skipped") else ""
    numbers = [f"loss {shown.pop('loss'):.6g}"]
    numbers += [f"{name.replace('_', ' ')} {value:.6g}" for name, value in shown.items()]
    program.log(f"step {found.step}, replayed from {start}: {', '.join(numbers)}{skipped}")
    if found.compared:
        program.log(_comparison(found))
    largest = sorted(found.by_parameter.items(), key=lambda item: _order(item[1]))
    rest = len(largest) - _PARAMETERS
    table = [("gradient of", "norm"), *((n, f"{v:.4g}") for n, v in largest[:_PARAMETERS])]
    program.log_table(table, "<>")
    if rest > 0:
        program.log(f"and {rest} others")
    rows = [("row", "nats", "targets", "gradient alone", "text")]
    for row, text in list(zip(found.rows, found.texts, strict=True))[: ROWS.value]:
        norm = "" if row.gradient_norm is None else f"{row.gradient_norm:.4g}"
        beginning = repr(text[:_CHARACTERS]) if text else ""
        rows.append((str(row.row), f"{row.nats:.5g}", f"{row.targets:g}", norm, beginning))
    program.log_table(rows, ">>>><")


def _comparison(found: "Replay") -> str:
    """Returns whether what was computed again is what the run recorded."""
    ends = f"{min(found.compared)} to {max(found.compared)}"
    steps = f"steps {ends}" if len(found.compared) > 1 else f"step {found.compared[0]}"
    if not found.differing:
        return f"losses and gradient norms of metrics.jsonl, {steps}: the same bit for bit"
    return (
        f"{len(found.differing)} of {len(found.compared)} rows of metrics.jsonl, {steps}, differ: "
        "trained on another machine, or by other versions"
    )


def _order(norm: float) -> tuple[bool, float]:
    """Returns what sorts norms: those that are not finite, then the largest."""
    return math.isfinite(norm), -norm if math.isfinite(norm) else 0.0


def _json(found: "Replay") -> dict[str, Any]:
    rows = [
        {**row._asdict(), "text": text} for row, text in zip(found.rows, found.texts, strict=True)
    ]
    kept = {
        name: value for name, value in found._asdict().items() if name not in ("batch", "texts")
    }
    return {"workdir": WORKDIR.value, **kept, "rows": rows}


if __name__ == "__main__":
    program.run(main)
