"""Several processes of one run: how they connect, agree, stop together and end.

A run of one process pays nothing for any of this.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from lm_jax.errors import UserError
from lm_jax.nested import flatten
from lm_jax.parallel.launchers import JobProcess

T = TypeVar("T")

# Exit status of a program that stopped on request and saved its state: EX_TEMPFAIL of sysexits.h.
PREEMPTED = 75

_joined = False  # JAX counts a client as initialized even if it never reached the others

# A process without a heartbeat for this long is taken for dead, and the others stop. A separate
# thread sends the heartbeats, so compiling or reading data does not delay them.
_HEARTBEAT_SECONDS = 40
_LOST = ("gloo", "nccl", "connection", "coordination", "heartbeat", "socket", "barrier", "task ")


def join(process: JobProcess | None, timeout_seconds: int) -> None:
    """Connects this process to its job; it must not have used a device yet.

    Args:
      process: None on a TPU pod, where JAX asks the machine.
      timeout_seconds: how long to wait for process 0 and for all others. If they do not come, this
        ends the process with one line, before JAX would abort it with a stack trace.

    Raises:
      UserError: process 0 does not answer, or cannot listen.
    """
    global _joined
    waiting: dict[str, Any] = {
        "initialization_timeout": timeout_seconds + 60,
        "heartbeat_timeout_seconds": _HEARTBEAT_SECONDS,
    }
    if process is None:
        jax.distributed.initialize(**waiting)
        _joined = True
        return
    deadline = time.monotonic() + timeout_seconds
    if process.process_id:
        _wait_for(process.coordinator, deadline)
    alarm = threading.Timer(timeout_seconds, _give_up, [process, timeout_seconds])
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            process.coordinator,
            process.num_processes,
            process.process_id,
            process.devices,
            cluster_detection_method="deactivate",
            **waiting,
        )
    except RuntimeError as error:
        raise UserError(
            f"the processes cannot connect at {process.coordinator} ({_summary(error)}); "
            "give another --coordinator"
        ) from None
    finally:
        alarm.cancel()
    _joined = True


def _give_up(process: JobProcess, timeout_seconds: int) -> None:
    print(
        f"error: process {process.process_id}: the {process.num_processes} processes of this job "
        f"did not all reach the coordinator {process.coordinator} within {timeout_seconds} s; "
        "check whether the others started, or give a longer --coordinator_timeout",
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
        except OSError as error:  # includes a host name that no server knows yet
            problem = str(error)
        time.sleep(min(0.2, left))
    raise UserError(
        f"the coordinator {coordinator} did not answer within {deadline - started:.0f} s "
        f"({problem}); check that process 0 runs there and the port is open, or give another "
        "--coordinator or a longer --coordinator_timeout"
    )


def several() -> bool:
    """Returns whether there are other processes; starts no device if there are none."""
    return _joined and jax.process_count() > 1


def is_first() -> bool:
    """Returns whether this is the process that writes and prints for all."""
    return not several() or jax.process_index() == 0


def name() -> str:
    """Returns a text such as `process 3 of 8`."""
    return f"process {jax.process_index()} of {jax.process_count()}"


def gather(text: str) -> list[str]:
    """Returns the texts of all processes in order; a collective that all of them must call."""
    if not several():
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(own)], np.int32))[:, 0]
    padded = np.zeros(max(lengths.max(), 1), np.uint8)
    padded[: len(own)] = own
    rows = np.asarray(multihost_utils.process_allgather(padded), np.uint8)
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]


def agree(values: Mapping[str, Any]) -> None:
    """Raises UserError on all processes unless all of them pass the same JSON values."""
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
    """Returns the result of `work` after it has returned on all processes.

    Raises:
      UserError: on all processes if it raised UserError or OSError on any of them. In a run of
        one process its own exception passes through.
    """
    if not several():
        return work()
    result, problem = None, ""
    try:
        result = work()
    except (UserError, OSError) as error:
        problem = str(error) or type(error).__name__
    for index, text in enumerate(gather(problem)):
        if text:
            raise UserError(f"process {index}: {text}")
    return result  # type: ignore[return-value]


def first_then_others(work: Callable[[], T]) -> T:
    """Works as `together`, but the first process runs first, to fill a cache for the others."""
    if not several():
        return work()
    result = together(lambda: work() if is_first() else None)
    return together(lambda: result if is_first() else work())  # type: ignore[return-value]


def stop_requests() -> Callable[[int], bool]:
    """Returns a function (step) -> whether to stop there because SIGTERM reached any process.

    Call it after each dispatch, at the same steps on all processes. All of them get the same
    answer, without waiting for each other. In a run of one process the first interrupt from the
    keyboard asks to stop, too; a second one raises KeyboardInterrupt.
    """
    if not _joined:
        received: list[int] = []

        def interrupt(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            received.append(number)
            os.write(2, b"\nsaving after the dispatch in progress; Ctrl-C again stops at once\n")

        signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not so under nohup
            signal.signal(signal.SIGINT, interrupt)
        return lambda step: bool(received)
    asked = 0

    def stop(step: int) -> bool:
        # JAX handles SIGTERM itself. All processes stop at the number after the last that any of
        # them has asked for. It may lie inside a dispatch, so this asks for every number.
        nonlocal asked
        numbers, asked = range(asked + 1, step + 1), step
        return any([multihost_utils.reached_preemption_sync_point(number) for number in numbers])

    return stop


@contextlib.contextmanager
def stopping_on_request() -> Iterator[Callable[[int], bool]]:
    """Yields what `stop_requests` returns, and restores how signals are handled after the block.

    Outside of the main thread, which alone may handle signals, nothing asks to stop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop_requests()
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that was not set from Python
                signal.signal(number, handler)


def is_lost(error: BaseException) -> bool:
    """Returns whether an error means that another process is gone."""
    text = str(error).lower()
    is_runtime = isinstance(error, jax.errors.JaxRuntimeError)
    # JAX 0.10.2 raises ValueError where a gather of its first dispatch fails.
    is_runtime = is_runtime or (type(error) is ValueError and "gloo" in text)
    return several() and is_runtime and any(word in text for word in _LOST)


def lost(error: BaseException) -> str:
    """Returns a line about a lost process."""
    return (
        f"another process of this job stopped ({_summary(error)}), so this one stops too; start "
        "the job again to resume from the last checkpoint"
    )


def leave(status: int) -> NoReturn:
    """Ends a failed process at once; a normal exit would wait for all others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _summary(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
