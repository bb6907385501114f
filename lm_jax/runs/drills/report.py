"""A whole drill, and its table."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lm_jax.config.experiment import Experiment
from lm_jax.runs.drills.attacks import GOOD, ON_RUNS, Attack, Outcome, prepare
from lm_jax.runs.drills.changing import ON_READ
from lm_jax.runs.drills.programs import PROGRAMS
from lm_jax.runs.drills.site import opened
from lm_jax.runs.drills.strikes import ON_PROGRAMS
from lm_jax.runs.drills.surroundings import ON_SURROUNDINGS, copied_data

ATTACKS: Mapping[str, Attack] = {**ON_RUNS, **ON_SURROUNDINGS, **ON_PROGRAMS, **ON_READ}


def applies(name: str, experiment: Experiment) -> bool:
    """Returns whether an attack has something to attack in runs of an experiment."""
    if name in PROGRAMS:
        return PROGRAMS[name].applies(experiment)
    return name != "data" or bool(getattr(experiment.data, "path", ""))


def run_drill(
    root: Path,
    experiment: Experiment,
    arguments: Sequence[str],
    repeats: Mapping[str, int],
    *,
    seed: int,
    num_processes: int,
    limit_seconds: float,
    show: Callable[[Outcome], None],
) -> None:
    """Attacks runs of a configuration.

    Args:
      root: an empty or missing directory.
      experiment: what the arguments configure.
      arguments: of `launch.train`, but for the work directory.
      repeats: how often to repeat each attack, by its name.
      seed: of the moments, files and bits.
      limit_seconds: after which a command counts as hanging.
      show: called with each outcome.

    Raises:
      UserError: the configuration cannot be drilled.
      OSError: the directory cannot be written.
    """
    with opened(root, arguments, num_processes, limit_seconds) as site:
        if "data" in repeats or ("changing" in repeats and applies("data", experiment)):
            site.read_from(copied_data(experiment, site.root))
        drill = prepare(site)
        for name, repeat in repeats.items():
            rng = random.Random(f"{seed} {name}")
            for outcome in ATTACKS[name](drill, rng, repeat):
                show(outcome)


def rows_of(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Returns the cells of a table: how often each attack came to what."""
    rows = [["attack", "times", *GOOD, "lost or wrong"]]
    for name in dict.fromkeys(outcome.attack for outcome in outcomes):
        verdicts = [outcome.verdict for outcome in outcomes if outcome.attack == name]
        counts = list(map(verdicts.count, GOOD))
        cells = [len(verdicts), *counts, len(verdicts) - sum(counts)]
        rows.append([name, *map(str, cells)])
    return rows
