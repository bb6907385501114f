r"""Fits a scaling law to the points of a CSV, with intervals, predictions and plots.

  python -m launch.scaling_law --points=runs.csv --law=parametric --d_column=tokens --budget=1e22
  python -m launch.scaling_law --points=runs.csv --law=isoflop --flops_column=flops --output=laws
  python -m launch.scaling_law --points=curves.csv --law=envelope --where=optimizer=adamw,seed=0
  python -m launch.scaling_law --points=runs.csv --law=power_offset --variable=n
  python -m launch.scaling_law --points=runs.csv --law=power --group_column=architecture
  python -m launch.scaling_law --points=sweeps/rates/results.csv --law=power \
      --best_per=non_embedding_parameters,seed

The columns of a results.csv of launch.sweep are known: N excludes embeddings, unfinished runs are
skipped, and profiles go by the budgets that the sweep asked for.

docs/sweeps_and_laws.md has the equations. With --output the directory receives scaling_law.html,
its plots as SVG and PNG, and scaling_law.json. The last line of the output is JSON with the
parameters of the law by name, `objective`, `num_points`, and their 95% bounds in `intervals`.
"""

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import program
from lm_jax.errors import UserError
from lm_jax.plurals import counted
from lm_jax.telemetry.json_files import write_json

if TYPE_CHECKING:
    from lm_jax.scaling_laws.laws import Law
    from lm_jax.scaling_laws.observations import Points
    from lm_jax.scaling_laws.study import Study

_POWERS = ("power", "power_offset")
_NAMES = ("parametric", "kaplan", "learning_curve", *_POWERS, "isoflop", "envelope")

POINTS = flags.DEFINE_string("points", None, "The CSV file, with a header.", required=True)
LAW = flags.DEFINE_enum("law", None, _NAMES, "What to fit.", required=True)
VARIABLE = flags.DEFINE_enum("variable", "n", ["n", "d", "c"], "The variable of a power law.")
N_COLUMN = flags.DEFINE_string("n_column", None, "The column of parameters; default: n.")
D_COLUMN = flags.DEFINE_string("d_column", None, "The column of tokens; default: d.")
FLOPS_COLUMN = flags.DEFINE_string(
    "flops_column", None, "The column of FLOPs, if there are no tokens: D = C / 6N."
)
STEPS_COLUMN = flags.DEFINE_string(
    "steps_column", None, "The column of optimizer steps; default: steps."
)
LOSS_COLUMN = flags.DEFINE_string("loss_column", None, "The column of losses; default: loss.")
WHERE = flags.DEFINE_list("where", [], "Rows to keep: column=value, comma-separated.")
BEST_PER = flags.DEFINE_list(
    "best_per", [], "Columns: keep the row of lowest loss among rows that agree in all of them."
)
GROUP_COLUMN = flags.DEFINE_string(
    "group_column", None, "Fit each value of this column and compare exponents."
)
MINIMUM = flags.DEFINE_enum(
    "minimum", "akima", ["akima", "parabola"], "How to find the minimum of an IsoFLOP profile."
)
HUBER_DELTA = flags.DEFINE_float(
    "huber_delta", None, "The residual of log L at which Huber's loss turns linear; default: 1e-3."
)
RESAMPLES = flags.DEFINE_integer("resamples", 1_000, "Resamples of the bootstrap.", lower_bound=100)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the bootstrap.", lower_bound=0)
BUDGET = flags.DEFINE_list("budget", [], "Training FLOPs to predict for, comma-separated.")
OUTPUT = flags.DEFINE_string("output", None, "The directory for plots and a page.")


def main() -> dict[str, Any]:
    """Prints the parameters with their intervals, then returns all results."""
    output = program.output_directory(OUTPUT.value)
    delta = HUBER_DELTA.value
    if delta is not None and not (delta > 0 and math.isfinite(delta)):
        raise UserError(f"--huber_delta={delta}; expected a positive number")
    budgets = [_budget(text) for text in BUDGET.value]
    path = Path(POINTS.value)
    if not path.is_file():
        raise UserError(f"--points={path}: there is no such file; give a CSV")
    if output:
        from lm_jax.reports.matplotlib_figures import require_matplotlib

        require_matplotlib()  # before the fit, which takes seconds
    from lm_jax.scaling_laws.observations import known_columns, read_points

    known = known_columns(path)
    finished = ["status=finished"] if "status" in known else []  # others have no final loss
    where = [*WHERE.value, *finished]
    points = read_points(path, _columns(known), where, GROUP_COLUMN.value, BEST_PER.value)
    found = _study(points, budgets)
    results = found.results
    for line in _describe(results):
        program.log(line)
    if output:
        program.log(f"page: {_write(found, output, path, where)}")
    return results


def _write(found: "Study", directory: Path, points: Path, where: list[str]) -> Path:
    """Writes scaling_law.json and the page, with their source; returns the path of the page."""
    from lm_jax.scaling_laws.plots import write_page
    from lm_jax.telemetry.environment import environment, maker

    directory.mkdir(parents=True, exist_ok=True)
    here, digest = environment(), hashlib.sha256(points.read_bytes()).hexdigest()
    source: dict[str, Any] = {"path": str(points), "sha256": digest}
    source |= {"where": where, "best_per": BEST_PER.value, "group_column": GROUP_COLUMN.value}
    record = found.results | {"points": source, "environment": here}
    write_json(directory / "scaling_law.json", record)
    chosen = [f"--where={text}" for text in where]
    chosen += [f"--best_per={','.join(BEST_PER.value)}"] if BEST_PER.value else []
    rows = " ".join([points.name, *chosen])
    return write_page(found, directory, f"From {rows}, SHA-256 {digest}, by {maker(here)}")


def _columns(known: dict[str, str]) -> dict[str, str]:
    """Returns the columns that the law needs, by the names of its variables."""
    of_tokens, of_flops = D_COLUMN.value, FLOPS_COLUMN.value
    if not of_tokens and not of_flops:
        of_tokens, of_flops = known.get("d"), known.get("c")
        if LAW.value == "isoflop":  # the FLOPs of whole steps differ from the budget of a profile
            of_flops = known.get("budget", of_flops)
    tokens = {"d": of_tokens} if of_tokens else {}
    flops = {"c": of_flops} if of_flops else {}
    loss = {"loss": LOSS_COLUMN.value or known["loss"]}
    size = {"n": N_COLUMN.value or known["n"]}
    budget = tokens | flops or {"d": "d"}
    if LAW.value == "learning_curve":
        return size | {"s": STEPS_COLUMN.value or known["s"]} | loss
    if LAW.value not in _POWERS:
        return size | budget | loss
    own = {"n": size, "d": tokens or {"d": "d"}, "c": flops or size | budget}[VARIABLE.value]
    if VARIABLE.value == "d" and flops and not tokens:
        own = size | flops
    return own | loss


def _study(points: "Points", budgets: list[float]) -> "Study":
    from lm_jax.scaling_laws import study

    if LAW.value == "isoflop":
        return study.study_isoflop(points, minimum=MINIMUM.value, budgets=budgets)
    if LAW.value == "envelope":
        return study.study_envelope(points, budgets=budgets)
    law = _law()
    options: dict[str, Any] = {"resamples": RESAMPLES.value, "seed": SEED.value}
    if HUBER_DELTA.value is not None:
        options["delta"] = HUBER_DELTA.value
    found = study.study_law(points, law, budgets=budgets, **options)
    if points.groups is not None:
        found = study.with_groups(found, law, **options)
    return found


def _law() -> "Law":
    from lm_jax.scaling_laws import laws

    powers = {"power": laws.power, "power_offset": laws.power_offset}
    if LAW.value in powers:
        return powers[LAW.value](VARIABLE.value)
    known = (laws.PARAMETRIC, laws.KAPLAN, laws.LEARNING_CURVE)
    return {law.name: law for law in known}[LAW.value]


def _budget(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"--budget={text}; expected training FLOPs, such as 1e22")
    return value


def _describe(results: dict[str, Any]) -> list[str]:
    from lm_jax.reports.numbers import bounded

    together = ", one law for all groups" if "groups" in results else ""
    lines = [f"{results['formula']}, {counted(results['num_points'], 'point')}{together}"]
    for name, bounds in results["intervals"].items():
        value, interval = bounded(results[name], *bounds)
        lines.append(f"{name:>16} {value:>12}   95%: {interval}")
    if results.get("edges"):
        listed = ", ".join(f"{budget:.4g}" for budget in results["edges"])
        lines.append(f"left out, the minimum is at the edge of the profile or curve: {listed}")
    for row in results.get("predictions", []):
        found = {n: bounded(row[n], *row[f"{n}_interval"]) for n in ("n", "d", "loss") if n in row}
        parts = [f"{name} {value} ({interval})" for name, (value, interval) in found.items()]
        lines.append(f"at {row['budget']:.4g} FLOPs: " + ", ".join(parts))
    if "groups" in results:
        groups = results["groups"]
        lines.append("exponents of each group")
        for name, bounds in groups["own_exponents"]["intervals"].items():
            value, interval = bounded(groups["own_exponents"][name], *bounds)
            lines.append(f"{name:>24} {value:>12}   95%: {interval}")
        chance = f"p = {groups['p_value']:.3g}"
        lines.append(f"equal exponents would show differences this large with {chance}")
    return lines


if __name__ == "__main__":
    program.run(main)
