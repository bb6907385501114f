"""What every front door shares: flags, one line for bad input, one line of JSON at the end."""

import difflib
import json
import os
import runpy
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

from lm_jax.build import expected_sizes
from lm_jax.config import experiment as experiments
from lm_jax.config.serialization import to_dict
from lm_jax.errors import UserError
from lm_jax.objectives.validation import validate
from lm_jax.parallel import processes
from lm_jax.parallel.xla_flags import PRESETS, use_preset
from lm_jax.telemetry.json_files import finite

XLA_PRESET = flags.DEFINE_enum(
    "xla_preset", "none", list(PRESETS), "Compiler flags: lm_jax/parallel/xla_flags.py."
)
sizes_of = expected_sizes  # what a front door knows of the data before it reads it

_arguments: list[str] = []


def arguments() -> list[str]:
    """What the command line holds besides options, for a `main` that takes it."""
    return _arguments


def run(main: Callable[[], dict[str, Any]], takes_arguments: bool = False) -> None:
    """Parses flags, runs `main`, prints its results as the last line, and exits.

    Bad input (ValueError, or OSError from the file system) ends in one line on stderr and status 1;
    a result with `"stopped": True` in status 75, and one with `"failed": True` in status 1. Of
    several processes the first one prints, and one that fails does not wait for the others.
    """
    logging.set_verbosity(logging.FATAL)
    # What fails in a thread that writes a checkpoint is raised again, and told, in this one.
    threading.excepthook = lambda _: None

    def guarded(arguments: list[str]) -> int:
        _arguments[:] = arguments[1:]
        if arguments[1:] and not takes_arguments:
            return _fail(f"unexpected argument {arguments[1]!r}; options begin with --")
        _use_compilation_cache()
        try:
            use_preset(XLA_PRESET.value)
            results = main()
        except (ValueError, OSError) as error:
            if isinstance(error, ValueError) and not _is_ours(error):
                traceback.print_exception(error)  # no bad input, but a fault of the code
            return _fail(str(error))
        except KeyboardInterrupt:
            return _fail("interrupted")
        except Exception as error:
            if not processes.several():
                raise
            if processes.is_lost(error):
                return _fail(processes.lost(error))
            traceback.print_exception(error)
            return _fail(f"{type(error).__name__}: {error}")
        if processes.is_first():
            print(json.dumps(finite(results), allow_nan=False), flush=True)
        if results.get("stopped"):
            return processes.PREEMPTED
        return 1 if results.get("failed") else 0

    app.run(guarded, flags_parser=_parse)


def log(text: str) -> None:
    """Prints for people: all but the last line of stdout is theirs."""
    if processes.is_first():
        print(text, flush=True)


def experiment_of(holder: Any) -> experiments.Experiment:
    """The valid experiment of a config flag.

    Raises:
      UserError: the file is missing or returns something else, or the experiment cannot run.
    """
    experiment = holder.value
    if not isinstance(experiment, experiments.Experiment):
        raise UserError(
            _missing_config(sys.argv)
            or f"--{holder.name} gave no Experiment; "
            "expected a Python file with get_config() -> Experiment, such as configs/quickstart.py"
        )
    validate(experiment)
    return experiment


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except KeyError as error:  # config_flags: an override names a field that does not exist
        sys.exit(_fail(_unknown_field(argv) or str(error.args[0])))
    except OSError as error:  # config_flags reports every path that it tried
        sys.exit(_fail(_missing_config(argv) or str(error)))
    except TypeError as error:  # a field of what is no dataclass, or a value of a wrong type
        told = _raised_by_config(str(error)) or _unknown_field(argv)
        sys.exit(_fail(told or str(error)))
    except (flags.Error, ValueError) as error:
        sys.exit(_fail(_raised_by_config(str(error)) or str(error)))


def _fail(message: str) -> int:
    who = f"{processes.name()}: " if processes.several() else ""
    print(f"error: {who}{' '.join(message.split())}", file=sys.stderr, flush=True)
    if jax.distributed.is_initialized():
        processes.leave(1)
    return 1


def _is_ours(error: Exception) -> bool:
    """Whether an error was raised in this house, where a message is written for its user."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return raised_in.is_relative_to(Path(__file__).parents[1])


def _raised_by_config(message: str) -> str | None:
    """What a configuration file raised, of the traceback that config_flags makes a message of."""
    if "Traceback (most recent call last)" not in message:
        return None
    return message.strip().splitlines()[-1].partition(": ")[2]


def _missing_config(argv: list[str]) -> str | None:
    for argument, following in zip(argv[1:], [*argv[2:], ""], strict=True):
        name, equals, value = argument.partition("=")
        value = value if equals else following
        if name == "--config" and not Path(value.partition(":")[0]).exists():
            return f"--config={value}: no such file; the shipped experiments are configs/*.py"
    return None


def _unknown_field(argv: list[str]) -> str | None:
    known = set(_paths(to_dict(_unchanged_experiment(argv))))
    for argument in argv[1:]:
        if argument.startswith("--config."):
            path = argument.removeprefix("--config.").partition("=")[0]
            if path not in known:
                close = difflib.get_close_matches(path, known, n=1)
                hint = f"did you mean {close[0]}?" if close else "see lm_jax/config/experiment.py"
                return f"{argument}: the configuration has no field {path}; {hint}"
    return None


def _unchanged_experiment(argv: list[str]) -> experiments.Experiment:
    """What --config gives before its fields are set: which fields there are depends on it."""
    for argument in argv[1:]:
        name, value = argument.partition("=")[::2]
        path, colon, choice = value.partition(":")
        if name == "--config" and Path(path).exists():
            get_config = runpy.run_path(path)["get_config"]
            return get_config(choice) if colon else get_config()
    return experiments.Experiment()


def _paths(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}.")


def _use_compilation_cache() -> None:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "lm_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
