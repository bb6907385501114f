"""Several processes that are one run: how they meet, agree, stop together and part.

Nothing here costs a run of one process anything.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from lm_jax.errors import UserError
from lm_jax.nested import flatten
from lm_jax.parallel.launchers import Place

T = TypeVar("T")

# Exit status of a program that stopped on request and saved its state: EX_TEMPFAIL of sysexits.h.
PREEMPTED = 75

_joined = False  # a client of JAX that never reached the others counts as initialized

# A process that is silent for so long is dead, and the others stop. The heartbeats come from a
# thread of their own, so that compiling or reading data does not silence a process.
_HEARTBEAT_SECONDS = 40
_LOST = ("gloo", "nccl", "connection", "coordination", "heartbeat", "socket", "barrier", "task ")


def join(place: Place | None, timeout_seconds: int) -> None:
    """Makes this process one of its job; it must not have used a device yet.

    Args:
      place: None on a TPU pod: JAX asks the machine.
      timeout_seconds: how long process 0, and then all others, are waited for. When they do not
        come, JAX would abort with a trace of its own: this ends the process before, with one line.

    Raises:
      UserError: process 0 does not answer, or cannot listen.
    """
    global _joined
    waiting: dict[str, Any] = {
        "initialization_timeout": timeout_seconds + 60,
        "heartbeat_timeout_seconds": _HEARTBEAT_SECONDS,
    }
    if place is None:
        jax.distributed.initialize(**waiting)
        _joined = True
        return
    deadline = time.monotonic() + timeout_seconds
    if place.process_id:
        _wait_for(place.coordinator, deadline)
    alarm = threading.Timer(timeout_seconds, _give_up, [place, timeout_seconds])
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            place.devices,
            cluster_detection_method="deactivate",
            **waiting,
        )
    except RuntimeError as error:
        raise UserError(
            f"the processes cannot meet at {place.coordinator} ({_summary(error)}); "
            "give another --coordinator"
        ) from None
    finally:
        alarm.cancel()
    _joined = True


def _give_up(place: Place, timeout_seconds: int) -> None:
    print(
        f"error: process {place.process_id}: the {place.num_processes} processes of this job did "
        f"not all reach the coordinator {place.coordinator} within {timeout_seconds} s; see "
        "whether the others started, or give a longer --coordinator_timeout",
        file=sys.stderr,
    )
    leave(1)


def _wait_for(coordinator: str, deadline: float) -> None:
    host, _, port = coordinator.rpartition(":")
    started, problem = time.monotonic(), "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=left).close()
            return
        except OSError as error:  # also a name that no server knows yet
            problem = str(error)
        time.sleep(min(0.2, left))
    raise UserError(
        f"the coordinator {coordinator} did not answer within {deadline - started:.0f} s "
        f"({problem}); see whether process 0 runs there and the port is open, or give another "
        "--coordinator or a longer --coordinator_timeout"
    )


def several() -> bool:
    """Whether there are other processes; without asking for a device where there are none."""
    return _joined and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return not several() or jax.process_index() == 0


def name() -> str:
    """`process 3 of 8`."""
    return f"process {jax.process_index()} of {jax.process_count()}"


def gather(text: str) -> list[str]:
    """The texts of all processes in their order; a collective, which all have to call."""
    if not several():
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(mine)], np.int32))[:, 0]
    padded = np.zeros(max(lengths.max(), 1), np.uint8)
    padded[: len(mine)] = mine
    rows = np.asarray(multihost_utils.process_allgather(padded), np.uint8)
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]


def agree(values: Mapping[str, Any]) -> None:
    """Raises UserError, on all processes, unless all call it with the same values of JSON."""
    if not several():
        return
    everyone = [flatten(json.loads(text)) for text in gather(json.dumps(values, sort_keys=True))]
    for index, theirs in enumerate(everyone):
        for path in sorted(everyone[0].keys() | theirs.keys()):
            first, other = everyone[0].get(path), theirs.get(path)
            if first != other:
                raise UserError(
                    f"the processes of this job disagree: {path} is {first!r} in process 0 and "
                    f"{other!r} in process {index}; start all of them alike"
                )


def together(work: Callable[[], T]) -> T:
    """What `work` returns here, once it has returned on all processes.

    Raises:
      UserError: on all processes, when it raised ValueError or OSError on any; in a run of one
        process, what it raises.
    """
    if not several():
        return work()
    result, problem = None, ""
    try:
        result = work()
    except (ValueError, OSError) as error:
        problem = str(error) or type(error).__name__
    for index, text in enumerate(gather(problem)):
        if text:
            raise UserError(f"process {index}: {text}")
    return result  # type: ignore[return-value]


def first_then_others(work: Callable[[], T]) -> T:
    """As `together`, but the first process goes before: what it leaves in a cache serves all."""
    if not several():
        return work()
    result = together(lambda: work() if is_first() else None)
    return together(lambda: result if is_first() else work())  # type: ignore[return-value]


def stop_requests() -> Callable[[int], bool]:
    """The function (step) -> whether to stop there, because SIGTERM reached any process.

    To be asked after each dispatch, at steps that are the same on all processes: all get the same
    answer, and do not wait for each other to get it.
    """
    if not _joined:
        received: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
        return lambda step: bool(received)
    asked = 0

    def stop(step: int) -> bool:
        # JAX, which takes SIGTERM itself, agrees on the number after the last that any process has
        # asked for. As that may lie inside a dispatch, none is left out.
        nonlocal asked
        numbers, asked = range(asked + 1, step + 1), step
        return any([multihost_utils.reached_preemption_sync_point(number) for number in numbers])

    return stop


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    text = str(error).lower()
    is_runtime = isinstance(error, jax.errors.JaxRuntimeError)
    return several() and is_runtime and any(word in text for word in _LOST)


def lost(error: BaseException) -> str:
    """The one line about a lost process."""
    return (
        f"another process of this job stopped ({_summary(error)}); so does this one: start the job "
        "again, and it goes on from the last checkpoint"
    )


def leave(status: int) -> NoReturn:
    """Ends a process that failed at once; the usual end waits for all others to end as well."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _summary(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
