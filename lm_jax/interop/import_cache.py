"""Models of others as work directories in the cache, so that a path is enough to load one."""

import contextlib
import hashlib
import json
from pathlib import Path

from lm_jax.data.cache import cache_directory
from lm_jax.errors import UserError
from lm_jax.interop.import_model import import_model
from lm_jax.json_values import read_object
from lm_jax.parallel import processes

_VERSION = 2  # of what `import_model` writes; counted up, models are imported once more
_OF_OTHERS = ("model_type", "architectures")  # keys of their config.json, which ours has not


def format_of(path: Path) -> str | None:
    """Returns the format of a model of others, as `import_model` has it; None for anything else."""
    if path.suffix == ".gguf" and path.is_file():
        return "gguf"
    with contextlib.suppress(OSError, UserError):
        values = read_object(path / "config.json")
        return "hf" if any(key in values for key in _OF_OTHERS) else None
    return None


def work_directory_of(path: str | Path) -> Path:
    """Returns the path of a work directory: the given one, or that of a model of others.

    Such a model is imported when it is first asked for, and again when its files have changed.

    Raises:
      UserError: the model cannot be read or is not supported.
      OSError: the cache cannot be written.
    """
    path = Path(path)
    format = format_of(path)
    if format is None:
        return path
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps([_VERSION, str(path.absolute()), stamps]).encode()).hexdigest()[
        :16
    ]
    workdir = cache_directory("").parent / "imported" / f"{path.absolute().name}-{key}"

    def make() -> None:
        done = workdir / "config.json"
        if not done.exists():
            try:
                import_model(path, workdir, format, log=lambda _: None)
            except (OSError, UserError):
                if not done.exists():  # else another program was first
                    raise

    processes.first_then_others(make)
    return workdir
