"""Runs programs in forks of one process that has already imported what they import.

  python -m tests.launch.fork_server

A request is a line. {"module", "arguments", "cwd", "environment", "stdout", "stderr"}, of which the
last two are paths of files, runs the module as `python -m` does, but without the 2 s that the
imports take; the answer is the process's id. An id is answered with the exit status once the
process has ended; a negative id at once, with null while it runs. A fork has its own flags, its own
JAX and its own signals, as a process started anew has.
"""

import gc
import json
import os
import runpy
import sys

from tests.every_module import import_every_module


def run(request: dict) -> None:
    """Becomes the program of a request: it ends as the program ends."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [request["module"], *request["arguments"]]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]  # which the page of a sweep shows
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def main() -> None:
    """Serves requests until the input ends."""
    import_every_module()  # once, for all forks
    gc.freeze()  # which then copy fewer pages
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


if __name__ == "__main__":
    main()
