"""Where a drill takes place: a folder of work directories, and the processes that train in them."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lm_jax.runs.drills.clock import Jump
from lm_jax.runs.drills.fork_server import Request
from lm_jax.runs.drills.write_faults import WriteFault

_PROGRAM = "launch.train"
_POLL_SECONDS = 0.02
_LAUNCHER_SECONDS = 2.0  # after which a launcher ends a job that has lost a process


class Harm(NamedTuple):
    """What goes wrong around a process."""

    writes: WriteFault | None = None
    jumps: Sequence[Jump] = ()


NO_HARM = Harm()


class Ended(NamedTuple):
    """How a command ended."""

    status: int | None  # of its first process; None: it was ended after the time limit
    errors: str  # what all its processes wrote to stderr


class _Process:
    """One process of the fork server, or one started anew."""

    def __init__(self, pid: int, server: "_Server | None", own: subprocess.Popen[bytes] | None):
        self.pid, self._server, self._own = pid, server, own
        self.status: int | None = None

    def poll(self) -> int | None:
        if self.status is None:
            if self._own is not None:
                self.status = self._own.poll()
            elif self._server is not None:
                self.status = self._server.ask(-self.pid)
        return self.status

    def send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class _Server:
    """The fork server: a process with JAX imported, for commands that start at once."""

    def __init__(self, cwd: Path):
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "lm_jax.runs.drills.fork_server", "lm_jax.runs.train"],
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: Request | int) -> int | None:
        assert self._popen.stdin is not None and self._popen.stdout is not None
        self._popen.stdin.write(json.dumps(request) + "\n")
        self._popen.stdin.flush()
        answer: int | None = json.loads(self._popen.stdout.readline())
        return answer

    def close(self) -> None:
        self._popen.communicate()  # it ends with its input


class Job:
    """A command that runs: one process, or several that train together."""

    def __init__(self, processes: Sequence[_Process], errors: Sequence[Path]):
        self.processes, self._errors = processes, errors

    def is_running(self) -> bool:
        return any(process.poll() is None for process in self.processes)

    def runs_for(self, seconds: float) -> bool:
        """Waits for so long or until the end; returns whether all processes still run."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.is_running():
            time.sleep(_POLL_SECONDS)
        return all(process.poll() is None for process in self.processes)

    def end(self, seconds: float) -> Ended:
        """Waits for the end; a job of which processes are left after the time is killed."""
        limit = deadline = time.monotonic() + seconds
        while self.is_running() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            if any(process.poll() not in (None, 0) for process in self.processes):
                deadline = min(deadline, time.monotonic() + _LAUNCHER_SECONDS)
        hung = self.is_running() and time.monotonic() >= limit
        for process in self.processes:
            process.send(signal.SIGKILL)
        while self.is_running():
            time.sleep(_POLL_SECONDS)
        statuses = [process.poll() for process in self.processes]
        status = next((each for each in statuses if each), 0)
        text = "".join(path.read_text(errors="replace") for path in self._errors)
        return Ended(None if hung else status, text)


class Site:
    """Work directories of one configuration, and how to train in them."""

    def __init__(
        self,
        root: Path,
        arguments: Sequence[str],
        server: _Server,
        num_processes: int,
        limit: float,
    ):
        self.root, self.limit_seconds = root, limit
        self.num_processes = num_processes
        self.clean_seconds = 0.0  # what a run takes that nobody attacks
        self._arguments, self._server = list(arguments), server
        self._numbers = itertools.count()

    def new(self, name: str) -> Path:
        """Returns a path of the site that does not exist yet."""
        return self.root / f"{name}-{next(self._numbers):04d}"

    def start(
        self,
        workdir: Path,
        *,
        harm: Harm = NO_HARM,
        is_warm: bool = True,
        cache: Path | None = None,
    ) -> Job:
        """Starts the command in a work directory.

        Args:
          harm: what goes wrong around its first process, whose imports are done.
          is_warm: whether its imports are done; else it begins with them.
          cache: of its data; None: the one that the runs of the site share.
        """
        cache = cache or self.root / "cache"
        own = [f"--workdir={workdir}", f"--config.data.cache_directory={cache}"]
        common = [*self._arguments, *own]
        if self.num_processes == 1:
            flags = [common]
        else:
            job = [
                f"--coordinator=localhost:{_free_port()}",
                f"--num_processes={self.num_processes}",
            ]
            flags = [[*common, *job, f"--process_id={i}"] for i in range(self.num_processes)]
        logs = [self.new("log") for _ in flags]
        started = [
            self._process(_PROGRAM, arguments, log, NO_HARM if number else harm, is_warm)
            for number, (arguments, log) in enumerate(zip(flags, logs, strict=True))
        ]
        return Job(started, logs)

    def start_program(
        self, module: str, arguments: Sequence[str], output: Path, harm: Harm = NO_HARM
    ) -> Job:
        """Starts another program of one process, whose imports are done.

        Args:
          output: a file for its stdout.
        """
        log = self.new("log")
        return Job([self._process(module, list(arguments), log, harm, output=output)], [log])

    def run(self, workdir: Path) -> Ended:
        """Runs the command in a work directory to its end."""
        return self.start(workdir).end(self.limit_seconds)

    def read_from(self, data: Path) -> None:
        """Lets the commands read their data from this path from now on."""
        self._arguments.append(f"--config.data.path={data}")

    def _process(
        self,
        module: str,
        arguments: list[str],
        log: Path,
        harm: Harm,
        is_warm: bool = True,
        output: Path = Path(os.devnull),
    ) -> _Process:
        if not is_warm:
            with log.open("wb") as file:
                command = [sys.executable, "-m", module, *arguments]
                own = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file
                )
            return _Process(own.pid, None, own)
        request = Request(
            module=module,
            arguments=arguments,
            cwd=os.getcwd(),
            environment=dict(os.environ),
            stdout=str(output),
            stderr=str(log),
        )
        if harm.writes is not None:
            request["write_fault"] = harm.writes
        if harm.jumps:
            request["clock_jumps"] = list(harm.jumps)
        pid = self._server.ask(request)
        assert pid is not None
        return _Process(pid, self._server, None)


@contextmanager
def opened(
    root: Path, arguments: Sequence[str], num_processes: int, limit: float
) -> Iterator[Site]:
    """Opens a site in an empty or missing directory.

    Args:
      arguments: of `launch.train`, but for the work directory.
      limit: seconds after which a command counts as hanging.
    """
    root.mkdir(parents=True, exist_ok=True)
    server = _Server(Path.cwd())
    try:
        yield Site(root.absolute(), arguments, server, num_processes, limit)
    finally:
        server.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port
