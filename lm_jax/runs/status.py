"""What a run does at present, from the files of its work directory alone.

It reads only, needs no JAX, and answers for damaged files as far as the others tell.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, TypeVar

from lm_jax.errors import UserError
from lm_jax.json_values import fits, read_as
from lm_jax.plurals import counted
from lm_jax.runs.lock import Holder, holder
from lm_jax.telemetry.attempts import read_attempts
from lm_jax.telemetry.metrics_tail import MetricsTail, read_tail
from lm_jax.telemetry.run_digests import read_results
from lm_jax.telemetry.run_files import Attempt, ConfigParts, Results, Row
from lm_jax.telemetry.run_status import RunStatus

T = TypeVar("T")

_RATE_SECONDS = 3.0  # of steps since the last start, below which their rate is noise
_SILENT_SECONDS = 60.0  # a live process on this machine that is silent for so long is worth a word


def read_status(name: str, workdir: Path, log_error: str = "") -> RunStatus:
    """Returns what the run in a work directory, which need not exist yet, does.

    Args:
      log_error: the error in the log of the process that trained it; "": none.
    """
    faults: list[str] = []
    config = _or(lambda: read_as(workdir / "config.json", ConfigParts), ConfigParts(), faults)
    held = _or(lambda: holder(workdir), None, faults)
    none: list[Attempt] = []
    attempts = _or(lambda: read_attempts(workdir), none, faults)
    results = _or(lambda: read_results(workdir), Results(), faults)
    path = workdir / "metrics.jsonl"
    tail = _or(lambda: read_tail(path), MetricsTail([], None, 0), faults)
    if tail.num_damaged:
        faults.append(f"{path} holds {counted(tail.num_damaged, 'damaged line')}")

    last = tail.training[-1] if tail.training else None
    num_steps = _num_steps(config, results)
    is_finished = _is_finished(results, num_steps)
    own_error = attempts[-1].get("error", "") if attempts else ""
    # One of several runs that a process trains together failed, and the others go on.
    if own_error and held and held.pid == attempts[-1].get("pid"):
        held = None
    error = own_error or log_error
    state = _state(held, is_finished, error, bool(config or attempts or faults))
    step = _step(tail, attempts, results if is_finished else Results())
    unit, rate = _steady_rate(last, attempts)
    validation = results.get("validation") if is_finished else tail.evaluation
    share = results.get("goodput", {}).get("share") if is_finished else _goodput(tail, attempts)
    return RunStatus(
        name,
        str(workdir),
        state,
        step,
        num_steps,
        last.get("loss") if last else None,
        validation.get("cross_entropy") if validation else None,
        unit,
        rate,
        _seconds_left(tail, step, num_steps) if state == "running" else None,
        len(attempts) - 1 if attempts else None,
        last.get("skipped_updates") if last else None,
        share,
        _free_bytes(workdir),
        _or(lambda: max(time.time() - path.stat().st_mtime, 0.0), None, []),
        held.host if held else "",
        held.pid if held else 0,
        "; ".join(filter(None, [_reason(state, held, error), *faults])),
    )


def _or(read: Callable[[], T], default: T, faults: list[str]) -> T:
    """Returns what is read; what is missing or damaged is the default, and damage is noted."""
    try:
        return read()
    except (FileNotFoundError, NotADirectoryError):
        return default
    except (UserError, OSError) as error:
        faults.append(" ".join(str(error).split()))
        return default


def _num_steps(config: ConfigParts, results: Results) -> int | None:
    if _is_count_based(results):
        return 1
    found = config.get("training", {}).get("num_steps")
    return found if fits(found, int) else None


def _is_count_based(results: Results) -> bool:
    """Returns whether results are of a fit in one step, which books no time to steps."""
    return results.get("step") == 1 and "goodput" not in results


def _is_finished(results: Results, num_steps: int | None) -> bool:
    """Returns whether results are of the end: a run that grew holds earlier ones until its own."""
    if "validation" not in results:
        return False
    has_ended = num_steps is None or results.get("step", num_steps) == num_steps
    return has_ended or bool(results.get("ended_early"))


def _state(held: Holder | None, is_finished: bool, error: str, has_begun: bool) -> str:
    if held and held.lives:
        return "running"
    if is_finished:
        return "finished"
    if held:
        return "dead"
    if error:
        return "failed"
    return "stopped" if has_begun else "waiting"


def _step(tail: MetricsTail, attempts: Sequence[Attempt], results: Results) -> int:
    if "step" in results:
        return results["step"]
    rows = [row["step"] for row in (*tail.training[-1:], tail.evaluation) if row]
    return max(rows, default=attempts[-1]["step"] if attempts else 0)


def _rate(last: Row | None) -> tuple[str, float | None]:
    """Returns what is counted, such as tokens, and how many of them per second."""
    for name, value in (last or {}).items():
        if name.endswith("_per_second") and _is_count(value):
            return name.removesuffix("_per_second"), float(value)
    return "", None


def _steady_rate(last: Row | None, attempts: Sequence[Attempt]) -> tuple[str, float | None]:
    """Returns the rate of the last row; none where steps have taken less than `_RATE_SECONDS`."""
    unit, rate = _rate(last)
    count = dict(last or {}).get(unit)
    if last is None or not rate or not _is_count(count) or not last["step"]:
        return unit, rate
    steps = last["step"] - (attempts[-1]["step"] if attempts else 0)
    seconds = steps * count / last["step"] / rate
    return (unit, rate) if seconds >= _RATE_SECONDS else ("", None)


def _is_count(value: Any) -> TypeGuard[float]:
    return fits(value, float)


class _Moment(NamedTuple):
    """What a row of training says of time; its seconds count from the last start."""

    step: int
    seconds: float
    units: float  # tokens, or what else is counted
    rate: float | None  # of the same per second


def _moments(rows: Sequence[Row]) -> list[_Moment]:
    """Returns the rows since the last start as moments."""
    found: list[_Moment] = []
    for row in reversed(rows):
        seconds = row.get("seconds")
        if seconds is None or (found and seconds > found[-1].seconds):
            break
        unit, rate = _rate(row)
        count = dict(row).get(unit)
        known = float(count) if _is_count(count) else 0.0
        found.append(_Moment(row["step"], seconds, known, rate))
    return found[::-1]


def _seconds_left(tail: MetricsTail, step: int, num_steps: int | None) -> float | None:
    """Returns the steps left at the pace of the last rows, evaluations included."""
    moments = _moments(tail.training)
    if num_steps is None or len(moments) < 2 or moments[-1].step <= moments[0].step:
        return None
    first, last = moments[0], moments[-1]
    return (last.seconds - first.seconds) / (last.step - first.step) * max(num_steps - step, 0)


def _goodput(tail: MetricsTail, attempts: Sequence[Attempt]) -> float | None:
    """Returns the share of the time since the last start in which steps were taken.

    An estimate, until results have the booked times: steps times their median seconds in the last
    rows.
    """
    moments = [moment for moment in _moments(tail.training) if moment.rate and moment.units]
    if not attempts or len(moments) < 2 or moments[-1].step <= moments[0].step:
        return None
    first, last = moments[0], moments[-1]
    units_per_step = (last.units - first.units) / (last.step - first.step)
    rate = statistics.median(moment.rate for moment in moments if moment.rate)
    seconds = (last.step - attempts[-1]["step"]) * units_per_step / rate
    return min(max(seconds / last.seconds, 0.0), 1.0) if last.seconds else None


def _free_bytes(workdir: Path) -> int | None:
    for path in (workdir, *workdir.absolute().parents):
        try:
            return shutil.disk_usage(path).free
        except OSError:  # a run that waits has no directory yet
            continue
    return None


def _reason(state: str, held: Holder | None, error: str) -> str:
    who = f"process {held.pid} on {held.host}" if held and held.pid else "its process"
    if state == "dead" and held:
        return f"{who} was killed or its machine is gone; last sign {held.silent_seconds:.0f} s ago"
    if state == "running" and held and held.silent_seconds > _SILENT_SECONDS:
        return f"{who} is silent for {held.silent_seconds:.0f} s; it may be paused"
    return error if state == "failed" else ""
