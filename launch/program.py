"""The frame of every program: flags, one line for a user's mistake, one line of JSON at the end.

Programs import JAX and what needs it after the flags are parsed, so that --help and a mistaken flag
do not wait for it.
"""

import atexit
import contextlib
import errno
import json
import os
import re
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from launch import experiment_flags
from lm_jax.errors import UserError
from lm_jax.parallel.xla_flags import PRESETS
from lm_jax.reports.text_table import text_table
from lm_jax.telemetry.json_files import finite

XLA_PRESET = flags.DEFINE_enum(
    "xla_preset", "none", list(PRESETS), "Compiler flags: lm_jax/parallel/xla_flags.py."
)

_CONVERSIONS = {
    r"invalid literal for int\(\)": "an integer",
    r"could not convert string to float": "a number",
    r"\('Non-boolean argument": "true or false",
    r"Exceeds the limit \(\d+ digits\)": "an integer of fewer digits",
}
_UNREAD = 128 + 13  # what a shell shows for SIGPIPE
_PATHS = (
    "config",
    "workdir",
    "from_workdir",
    "sweepdir",
    "output",
    "save_batch",
    "dump",
    "points",
    "input",
    "text",
    "against",
    "task",
    "image",
    "similarities",
    "analogies",
)
_arguments: list[str] = []


def arguments() -> list[str]:
    """Returns the command-line arguments that are no flags, for a `main` that takes them."""
    return _arguments


def run(
    main: Callable[[], dict[str, Any]],
    takes_arguments: bool = False,
    resumes: bool = False,
    uses_jax: bool = True,
) -> None:
    """Parses flags, runs `main`, prints its results as the last line, and exits.

    Args:
      takes_arguments: whether arguments that are no flags are allowed: `arguments`.
      resumes: whether the same command continues what it has begun.
      uses_jax: whether JAX is imported and set up; a program without it starts at once.

    Exit status 1: the results hold `"failed": True`, or `main` raised. `UserError` and `OSError`
    are a user's to mend: they end in one line on stderr. Any other exception is a fault of the code
    and shows a traceback before that line.
    Exit status 75: the results hold `"stopped": True`; or SIGTERM came before `main` handles it, to
    a program that `resumes` what it has begun.

    Exit status 141, as of SIGPIPE: nobody reads the output any more (`| head -1`).

    Of several processes the first one prints the results; a process that fails does not wait for
    the others.
    """
    # An error in a thread that writes a checkpoint is raised again, and shown, in the main thread.
    threading.excepthook = lambda _: None
    sys.unraisablehook = _show_unraisable
    if resumes:
        signal.signal(signal.SIGTERM, _stop_before_work)
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["trust_code"])  # in --help

    def guarded(arguments: list[str]) -> int:
        logging.set_verbosity(logging.FATAL)  # after parsing, which sets the default
        _arguments[:] = arguments[1:]
        if arguments[1:] and not takes_arguments:
            return _print_error(_unexpected(arguments[1]))
        try:
            if uses_jax:
                _set_up_jax()
            return _end(main())
        except BrokenPipeError:
            raise
        except (Exception, KeyboardInterrupt) as error:
            return _fail(_cause(error))

    try:
        app.run(guarded, flags_parser=_parse)
    except SystemExit as end:
        if _is_unread():
            _leave(_UNREAD)
        if end.code:
            _leave_threads(end.code)
        raise
    except BrokenPipeError as error:
        sys.exit(_leave(_UNREAD) if _is_unread() else _fail(str(error)))


def _cause(error: Exception | KeyboardInterrupt) -> str:
    """Returns an error in one line; a fault of the code shows its traceback before."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if (known := _lost(error) or _without_devices(error)) is not None:
        return known
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"


def _end(results: dict[str, Any]) -> int:
    """Prints the results of `main` as the last line; returns the exit status that they ask for."""
    if _is_first():
        print(json.dumps(finite(results), allow_nan=False), flush=True)
    if results.get("stopped"):
        from lm_jax.parallel import processes

        return processes.PREEMPTED
    return 1 if results.get("failed") else 0


def _show_unraisable(found: Any) -> None:
    """Shows an error that nobody can catch, unless a save failed under tensorstore's threads."""
    if str(found.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(found)


def _stop_before_work(number: int, frame: Any) -> None:
    """Ends a program that has done nothing yet, such as importing JAX, as one that was stopped."""
    os.write(2, b"stopped before the work began; the same command begins it\n")
    os._exit(os.EX_TEMPFAIL)


def _of_system(error: OSError) -> str:
    """Returns what a system says of a file, and what to do where that is certain."""
    what = error.strerror or str(error)  # of stdout and stderr without a name
    text = f"{error.filename}: {what}" if error.filename else what
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{text}; make room and run the same command again" if is_full else text


def _is_unread() -> bool:
    """Returns whether stdout or stderr is a pipe that its reader closed; it leads nowhere then."""
    found = False
    for descriptor in (1, 2):  # not those of sys.stdout, which a caller may have replaced
        poll = select.poll()
        poll.register(descriptor, 0)  # reports errors only
        if poll.poll(0):
            found = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return found


def output_file(given: str | None, flag: str = "output") -> Path | None:
    """Returns the path that a flag gives, or None; to be called before any work.

    Raises:
      UserError: no file can be written there.
    """
    return _writable(Path(given), flag, is_directory=False) if given else None


def output_directory(given: str | None) -> Path | None:
    """Returns the directory of --output, or None; to be called before any work.

    Raises:
      UserError: no files can be written there.
    """
    return _writable(Path(given), "output", is_directory=True) if given else None


def _writable(path: Path, flag: str, is_directory: bool) -> Path:
    """Returns the path if it can be written; creates nothing, because the work may still fail."""
    if is_directory and path.exists() and not path.is_dir():
        raise UserError(f"--{flag}={path} is a file; give the path of a directory")
    if not is_directory and path.exists() and not path.is_file():
        kind = "a directory" if path.is_dir() else "no regular file"
        raise UserError(f"--{flag}={path} is {kind}; give the path of a file")
    # What is written replaces a file, so that its directory counts.
    directories = [path, *path.absolute().parents] if is_directory else path.absolute().parents
    nearest = next(directory for directory in directories if directory.exists())
    if not nearest.is_dir():
        raise UserError(f"--{flag}={path}: {nearest} is a file, no directory; give another path")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"--{flag}={path}: {nearest} cannot be written; give another path")
    return path


def log(text: str) -> None:
    """Prints for people: all of stdout but its last line."""
    if _is_first():
        print(text, flush=True)


def log_table(rows: Sequence[Sequence[str]], sides: str) -> None:
    """Prints an empty line and rows of cells in columns: `text_table`."""
    log("\n".join(["", *text_table(rows, sides)]))


def _parse(argv: list[str]) -> list[str]:
    try:
        _refuse_paths(argv)
        return experiment_flags.parse(argv)
    except BrokenPipeError:  # of --help
        raise
    except flags.IllegalFlagValueError as error:
        sys.exit(_print_error(_in_words(str(error))))
    except (UserError, OSError, flags.Error) as error:
        sys.exit(_print_error(str(error)))


def _unexpected(argument: str) -> str:
    name, equals, _ = argument.partition("=")
    hint = f"; {experiment_flags.flag_hint(name)}" if equals else ""
    return f"unexpected argument {argument!r}; options begin with --{hint}"


def _refuse_paths(argv: list[str]) -> None:
    """Raises UserError for a path that a shell left empty, or whose ~ it did not replace.

    An unset variable leaves an empty one, which would be the current directory.
    """
    for argument in argv:
        name, _, value = argument.removeprefix("--").partition("=")
        if value.startswith("~/") and (name in _PATHS or name.endswith("path")):
            raise UserError(f"{argument}: a shell leaves ~ as it is after =; write $HOME instead")
    pairs = set(zip(argv, argv[1:], strict=False))
    for name in _PATHS:
        if name in flags.FLAGS and (f"--{name}=" in argv or (f"--{name}", "") in pairs):
            raise UserError(f"--{name} is empty; give a path")


def _in_words(message: str) -> str:
    """Returns absl's message on a flag in our words: the type expected, or what is missing."""
    if missing := re.fullmatch(r"flag --(\w+)=None: .* other than None\.", message):
        meaning = flags.FLAGS[missing[1]].help
        return f"--{missing[1]} is missing: {meaning[0].lower()}{meaning[1:].rstrip('.')}"
    for words, expected in _CONVERSIONS.items():
        message = re.sub(f": {words}.*", f": expected {expected}", message, flags=re.DOTALL)
    return message


def _print_error(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return 1


def _is_alone() -> bool:
    """Returns whether this program has not imported JAX, so that it is no process of a job."""
    return "jax" not in sys.modules


def _is_first() -> bool:
    if _is_alone():
        return True
    from lm_jax.parallel import processes

    return processes.is_first()


def _lost(error: Exception) -> str | None:
    """Returns what to say of an error that the loss of another process caused; None: it did not."""
    if _is_alone():
        return None
    from lm_jax.parallel import processes

    return processes.lost(error) if processes.several() and processes.is_lost(error) else None


def _without_devices(error: Exception) -> str | None:
    """Returns what to say where JAX cannot use the devices that were asked for; None: it can."""
    platforms = os.environ.get("JAX_PLATFORMS")
    places = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not platforms or all(place.f_code.co_name != "backends" for place in places):
        return None
    reason = str(error).partition(": ")[2].partition(" (set JAX_PLATFORMS")[0].rstrip(".")
    return (
        f"JAX_PLATFORMS={platforms}: JAX cannot use such a device here"
        f"{f' ({reason})' if reason else ''}; install JAX for it (docs/clusters.md), or set "
        "JAX_PLATFORMS=cpu"
    )


def _fail(message: str) -> int:
    """Prints an error with the name of this process and leaves the job; returns the exit status."""
    if _is_alone():
        return _print_error(message)
    from lm_jax.parallel import processes

    _print_error(f"{processes.name()}: {message}" if processes.several() else message)
    return _leave(1)


def _leave(status: int) -> int:
    """Leaves a job of several processes at once; returns the exit status if there is none."""
    if _is_alone():
        return status
    import jax

    from lm_jax.parallel import processes

    if jax.distributed.is_initialized():
        processes.leave(status)
    return status


def _leave_threads(status: int | str) -> None:
    """Ends a program that failed now if threads are left, for which Python would wait.

    Orbax's threads wait five minutes for the beginning of a save that a full disk has ended.
    """
    here = threading.current_thread()
    if not isinstance(status, int) or all(t.daemon or t is here for t in threading.enumerate()):
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def _set_up_jax() -> None:
    import jax

    from lm_jax.parallel.xla_flags import use_preset

    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "lm_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    use_preset(XLA_PRESET.value)
