"""What a run does at present."""

from typing import NamedTuple

STATES = ("running", "failed", "dead", "stopped", "waiting", "finished")  # in the order shown


class RunStatus(NamedTuple):
    """What a run does; None: unknown."""

    name: str
    workdir: str
    state: str  # one of STATES
    step: int
    num_steps: int | None
    training_loss: float | None
    validation_loss: float | None
    unit: str  # that `per_second` counts, such as tokens; "" where it is not measured yet
    per_second: float | None  # None before 3 s of steps since the last start, too
    seconds_left: float | None  # of a running one
    restarts: int | None
    skipped_updates: int | None
    goodput: float | None  # share of the time of the last start
    free_bytes: int | None  # on the file system of the work directory
    row_age_seconds: float | None  # since the last row of metrics was written
    host: str  # "" where no process holds the directory
    pid: int
    remark: str  # why it failed, when it died, what is damaged; "": nothing to say
