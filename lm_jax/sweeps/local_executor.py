"""Processes on this machine, so many at a time, each with its share of it."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from lm_jax.errors import UserError

_SECONDS_BETWEEN_LOOKS = 0.1


class Share(NamedTuple):
    """What a process may use; None: what its parent may."""

    cores: tuple[int, ...] | None
    gpus: str | None  # as CUDA_VISIBLE_DEVICES lists them


def shares(processes: int) -> list[Share]:
    """As many equal shares of this machine: of its GPUs where it has any, and of its cores.

    Equal, because what a program computes may depend in its last bits on the number of its cores;
    what does not divide is left idle. Of fewer cores than processes, some have one together.

    Raises:
      UserError: there are fewer GPUs than processes.
    """
    if processes <= 1:
        return [Share(None, None)] * processes
    gpus = _gpus()
    if gpus and processes > len(gpus):
        raise UserError(
            f"--processes={processes}, but there are {len(gpus)} GPUs, of which each process needs "
            "its own; ask for fewer, or set JAX_PLATFORMS=cpu"
        )
    of_gpus = [",".join(part) for part in _divide(gpus, processes)] if gpus else []
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    of_cores = [tuple(part) for part in _divide(cores, processes)] if cores else []
    return [
        Share(of_cores[i] if cores else None, of_gpus[i] if gpus else None)
        for i in range(processes)
    ]


def memory_of_a_process(processes: int) -> float | None:
    """Bytes that each has of this machine's memory; None where GPUs hold what is computed."""
    if not processes or _gpus() or not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / processes


def run_all(
    commands: Mapping[str, Sequence[str]],
    logs: Mapping[str, Path],
    shares: Sequence[Share],
    stop_requested: Callable[[], bool],
    ended: Callable[[str, int, list[str]], None],
    waits: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> None:
    """Runs commands in their order, one to a share at a time, until all ended or a stop is asked.

    Then each process gets SIGTERM and is waited for, and no other starts. Each has a pipe as its
    standard input, which ends with this process, however that ends: see `stop_with_parent`.

    Args:
      commands: by name.
      logs: the file to which the output of each is added, by name.
      stop_requested: () -> whether to stop.
      ended: (name, exit status, names of those that run still), called after each.
      waits: which others have to have ended before, by name; in no circle.

    Raises:
      OSError: a log cannot be written, or a command cannot be started.
    """
    waiting = dict(commands)
    running: dict[str, tuple[subprocess.Popen, Share]] = {}
    told: set[str] = set()
    try:
        while running or (waiting and not stop_requested()):
            for share in shares:
                taken = any(held is share for _, held in running.values())
                left = waiting.keys() | running.keys()
                ready = (name for name in waiting if left.isdisjoint(waits.get(name, ())))
                name = next(ready, None)
                if name is not None and not taken and not stop_requested():
                    running[name] = (_start(waiting.pop(name), logs[name], share), share)
            if stop_requested():
                _terminate(running, told)
            for name, (process, _) in list(running.items()):
                if process.poll() is not None:
                    _close(process)
                    del running[name]
                    ended(name, process.returncode, list(running))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    finally:  # of an error here, too, no process is left behind
        _terminate(running, told)
        for process, _ in running.values():
            process.wait()
            _close(process)


def stop_with_parent() -> None:
    """Sends this process SIGTERM when the one that `run_all` runs in is gone, even killed."""

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
    with log.open("ab") as file, _on_cores(share.cores):
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # an interrupt from the keyboard is this process's to pass on
        )


@contextlib.contextmanager
def _on_cores(cores: tuple[int, ...] | None) -> Iterator[None]:
    """A context in which this thread may use these cores only, and what it starts inherits that."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _terminate(running: Mapping[str, tuple[subprocess.Popen, Share]], told: set[str]) -> None:
    for name, (process, _) in running.items():
        if name not in told:
            process.terminate()
            told.add(name)


def _close(process: subprocess.Popen) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()


def _divide(things: Sequence, parts: int) -> list[list]:
    size = max(len(things) // parts, 1)
    return [[things[(i * size + j) % len(things)] for j in range(size)] for i in range(parts)]


def _gpus() -> list[str]:
    """NVIDIA's GPUs that this process may use; none where JAX is told to use others."""
    if os.environ.get("JAX_PLATFORMS", "cuda").split(",")[0] not in ("cuda", "gpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted(found, key=int)
