"""Checks that an architecture keeps the contracts of its model, in seconds and without data.

  python -m launch.check_model --config=my_model.py
  python -m launch.check_model --config=configs/quickstart.py --config.model.num_layers=2

Prints one line a check: `ok`, `-` where it does not apply, or `WRONG` with what is wrong and where.
The checks are about the model of the experiment, on made-up tokens or images: its declarations,
dtypes and determinism; whether rows, documents of a row and padding are kept apart; `loss` and
`step` against `apply`; and, by gradients, whether a logit depends on a later token. The last line
of the output is JSON. Exit status 1: a check failed.
"""

from typing import Any

from launch import experiment_flags, program
from lm_jax.errors import UserError

CONFIG = experiment_flags.define()


def main() -> dict[str, Any]:
    """Prints the checks and returns their outcomes."""
    if CONFIG.value is None:
        raise UserError("give the experiment of the model with --config=FILE")
    import jax

    jax.config.update("jax_platforms", "cpu")  # where the same program gives the same bits

    from lm_jax.analysis.model_checks import check_model

    checks = check_model(experiment_flags.experiment())
    width = max(len(check.name) for check in checks)
    for check in checks:
        outcome = {True: "ok", False: "WRONG", None: "-"}[check.ok]
        program.log(f"{check.name:{width}}  {outcome:5}  {check.text}")
    failed = [check.name for check in checks if check.ok is False]
    return {
        "checks": {check.name: {"ok": check.ok, "found": check.text} for check in checks},
        "failed": bool(failed),
    }


if __name__ == "__main__":
    program.run(main)
