"""Where metrics go besides the work directory: Weights & Biases, MLflow, a function of yours.

A logger is a function of the work directory and the configuration (`config.json`) that returns a
context manager, which is entered where training starts and left where it ends. Its value is called
as `on_metrics(step, metrics)` with the numbers of each row of metrics.jsonl, named `train/loss` or
`evaluation/cross_entropy`.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lm_jax.errors import UserError
from lm_jax.nested import flatten
from lm_jax.telemetry.json_files import write_text

OnMetrics = Callable[[int, Mapping[str, float]], None]
Logger = Callable[[Path, Mapping[str, Any]], contextlib.AbstractContextManager[OnMetrics]]


def to_nowhere(
    workdir: Path, config: Mapping[str, Any]
) -> contextlib.AbstractContextManager[OnMetrics]:
    """Returns a logger that does nothing."""
    return contextlib.nullcontext(lambda step, metrics: None)


@contextlib.contextmanager
def to_wandb(workdir: Path, config: Mapping[str, Any]) -> Iterator[OnMetrics]:
    """Logs to Weights & Biases; a resumed run goes on there. WANDB_PROJECT names the project.

    Raises:
      UserError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("logger=wandb needs wandb: pip install -e '.[wandb]'") from None
    name = str(workdir.resolve())
    run_id = hashlib.sha256(name.encode()).hexdigest()[:16]
    with wandb.init(
        dir=name, config=dict(config), name=workdir.name, id=run_id, resume="allow"
    ) as run:
        yield lambda step, metrics: run.log(dict(metrics), step=step)


@contextlib.contextmanager
def to_mlflow(workdir: Path, config: Mapping[str, Any]) -> Iterator[OnMetrics]:
    """Logs to MLflow; a resumed run goes on there. MLFLOW_TRACKING_URI says where it is.

    Raises:
      UserError: mlflow is not installed.
    """
    try:
        import mlflow
    except ImportError:
        raise UserError("logger=mlflow needs mlflow: pip install -e '.[mlflow]'") from None
    known = workdir / "mlflow_run_id"
    if known.exists():
        run = mlflow.start_run(run_id=known.read_text(encoding="utf-8"))
    else:
        run = mlflow.start_run(run_name=workdir.name)
        write_text(known, run.info.run_id)
        mlflow.log_params(flatten(config))
    with run:
        yield lambda step, metrics: mlflow.log_metrics(dict(metrics), step=step)


LOGGERS: dict[str, Logger] = {"none": to_nowhere, "wandb": to_wandb, "mlflow": to_mlflow}
