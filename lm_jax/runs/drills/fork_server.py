"""Runs programs in forks of one process that has already imported what they import.

  python -m lm_jax.runs.drills.fork_server lm_jax.runs.train

imports the modules that it is given. A request is a line. {"module", "arguments", "cwd",
"environment", "stdout", "stderr"}, of which the last two are paths of files, runs the module as
`python -m` does, but without the 2 s that the imports take; "write_fault" and "clock_jumps" are
what goes wrong around it. The answer is the process's id. An id is answered with the exit status
once the process has ended; a negative id at once, with null while it runs. A fork has its own
flags, its own JAX and its own signals, as a process started anew has.
"""

import gc
import importlib
import json
import os
import runpy
import sys
from typing import NotRequired, TypedDict

from lm_jax.runs.drills import clock, write_faults
from lm_jax.runs.drills.clock import Jump
from lm_jax.runs.drills.write_faults import WriteFault


class Request(TypedDict):
    """A program to run."""

    module: str
    arguments: list[str]
    cwd: str
    environment: dict[str, str]
    stdout: str
    stderr: str
    write_fault: NotRequired[WriteFault]
    clock_jumps: NotRequired[list[Jump]]


def run(request: Request) -> None:
    """Becomes the program of a request: it ends as the program ends."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for path, descriptor in ((request["stdout"], 1), (request["stderr"], 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [request["module"], *request["arguments"]]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]  # which the page of a sweep shows
    if "clock_jumps" in request:
        clock.jump([clock.Jump(*each) for each in request["clock_jumps"]])
    if "write_fault" in request:
        write_faults.begin(request["write_fault"])
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def serve() -> None:
    """Serves requests until the input ends; a fork becomes its program instead."""
    gc.freeze()  # forks then copy fewer pages
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, int):
            process, status = os.waitpid(abs(request), 0 if request > 0 else os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if process else None
        else:
            answer = os.fork()
            if not answer:
                return run(request)
        print(json.dumps(answer), flush=True)


def main() -> None:
    """Imports modules once, for all forks, and serves."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    serve()


if __name__ == "__main__":
    main()
