"""The data that a run was trained with, prepared again from where it is now."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_jax import data
from lm_jax.data.config import PLACES
from lm_jax.errors import UserError
from lm_jax.parallel import processes
from lm_jax.runs import workdir

_UNMOVED: Mapping[str, str] = {}


def data_of(
    directory: Path, config: Any, moved: Mapping[str, str] = _UNMOVED
) -> data.Dataset[Any, Any]:
    """Returns the data of a run; a collective.

    Args:
      config: `data` of the run's experiment.
      moved: where the data is now, by the field of `data` (of `PLACES`) that said where it was.

    Raises:
      UserError: the data cannot be read, or it changed since.
    """
    before = dataclasses.asdict(config)
    for field, place in moved.items():
        if not before.get(field):
            raise UserError(
                f"--data_path={field}={place}: {directory} reads no data.{field} (data.source is "
                f"{config.source}); leave it out"
            )
    # A stranger's configuration may name any directory as its cache: none but our own is written.
    own = {"cache_directory": ""} if "cache_directory" in before else {}
    config = dataclasses.replace(config, **own, **moved)
    if config.has_text and config.tokenizer.path:
        tokenizer = dataclasses.replace(config.tokenizer, path=str(directory))  # its own copy
        config = dataclasses.replace(config, tokenizer=tokenizer)
    read = [name for name in PLACES if before.get(name)]
    places = [f"--data_path={'' if name == 'path' else f'{name}='}PATH" for name in read]
    advice = f"name the data that it was trained on with {' '.join(places)}"
    advice = advice if read else "only the data that it was trained on can be measured"
    try:
        dataset = processes.first_then_others(lambda: data.prepare(config))
    except UserError as error:
        if not read:
            raise
        raise UserError(f"{error}; if the data of {directory} moved, {advice}") from error
    workdir.refuse_other_data(dataset, directory, advice)
    return dataset
