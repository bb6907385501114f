"""Runs processes on this machine, several at a time, each on its share of cores and GPUs."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from lm_jax.atomic_files import open_to_append
from lm_jax.errors import UserError
from lm_jax.host import host_memory

T = TypeVar("T")

_POLL_SECONDS = 0.1


class Share(NamedTuple):
    """The cores and GPUs of a process; None: the same as its parent's."""

    cores: tuple[int, ...] | None
    gpus: str | None  # in the format of CUDA_VISIBLE_DEVICES


def shares(processes: int) -> list[Share]:
    """Divides the GPUs, if any, and the cores of this machine into equal shares.

    The shares are equal because the last bits of a result may depend on the number of cores; the
    remainder stays idle. With fewer cores than processes, some processes share a core.

    Raises:
      UserError: there are fewer GPUs than processes.
    """
    if processes <= 1:
        return [Share(None, None)] * processes
    gpus = _gpus()
    if gpus and processes > len(gpus):
        raise UserError(
            f"--processes={processes}, but there are {len(gpus)} GPUs, and each process needs one; "
            "ask for fewer processes, or set JAX_PLATFORMS=cpu"
        )
    gpu_parts = [",".join(part) for part in _divide(gpus, processes)] if gpus else []
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    core_parts = [tuple(part) for part in _divide(cores, processes)] if cores else []
    return [
        Share(core_parts[i] if cores else None, gpu_parts[i] if gpus else None)
        for i in range(processes)
    ]


def bytes_per_process(processes: int) -> float | None:
    """Returns each process's share of this machine's memory in bytes; None if GPUs compute."""
    memory = host_memory()
    return None if not processes or _gpus() or memory is None else memory / processes


def run_all(
    commands: Mapping[str, Sequence[str]],
    logs: Mapping[str, Path],
    shares: Sequence[Share],
    stop_requested: Callable[[], bool],
    on_exit: Callable[[str, int, list[str]], None],
    dependencies: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> None:
    """Runs commands in order, one per share at a time, until all have ended or a stop is asked.

    A stop sends SIGTERM to each process and waits for it; no other starts. Each process has a pipe
    as its standard input, which closes when this process ends for any reason: see
    `stop_with_parent`.

    Args:
      commands: the arguments by name.
      logs: by name, the file to which the output is appended.
      stop_requested: () -> whether to stop.
      on_exit: (name, exit status, names still running), called after each process.
      dependencies: by name, the commands that must end first; without cycles.

    Raises:
      OSError: a log cannot be written, or a command cannot be started.
    """
    waiting = dict(commands)
    running: dict[str, tuple[subprocess.Popen, Share]] = {}
    signalled: set[str] = set()
    try:
        while running or (waiting and not stop_requested()):
            for share in shares:
                taken = any(used is share for _, used in running.values())
                left = waiting.keys() | running.keys()
                ready = (name for name in waiting if left.isdisjoint(dependencies.get(name, ())))
                name = next(ready, None)
                if name is not None and not taken and not stop_requested():
                    running[name] = (_start(waiting.pop(name), logs[name], share), share)
            if stop_requested():
                _terminate(running, signalled)
            for name, (process, _) in list(running.items()):
                if process.poll() is not None:
                    _close(process)
                    del running[name]
                    on_exit(name, process.returncode, list(running))
            time.sleep(_POLL_SECONDS)
    finally:  # an error here leaves no process behind either
        _terminate(running, signalled)
        for process, _ in running.values():
            process.wait()
            _close(process)


def stop_with_parent() -> None:
    """Sends this process SIGTERM when the process that calls `run_all` ends or is killed."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _start(command: Sequence[str], log: Path, share: Share) -> subprocess.Popen:
    environment = dict(os.environ)
    if share.gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = share.gpus
    with open_to_append(log) as file, _on_cores(share.cores):
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # this process passes on an interrupt from the keyboard
        )


@contextlib.contextmanager
def _on_cores(cores: tuple[int, ...] | None) -> Iterator[None]:
    """Restricts this thread, and the processes that it starts, to these cores."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _terminate(running: Mapping[str, tuple[subprocess.Popen, Share]], signalled: set[str]) -> None:
    for name, (process, _) in running.items():
        if name not in signalled:
            process.terminate()
            signalled.add(name)


def _close(process: subprocess.Popen) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()


def _divide(items: Sequence[T], parts: int) -> list[list[T]]:
    """Returns `parts` lists of equal size; items repeat if there are fewer than parts."""
    size = max(len(items) // parts, 1)
    return [[items[(i * size + j) % len(items)] for j in range(size)] for i in range(parts)]


def _gpus() -> list[str]:
    """Returns the NVIDIA GPUs that this process may use; none if JAX_PLATFORMS excludes them."""
    if os.environ.get("JAX_PLATFORMS", "cuda").split(",")[0] not in ("cuda", "gpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted(found, key=int)
