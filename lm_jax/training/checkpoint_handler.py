"""How orbax writes the arrays of a checkpoint here: with a manifest of digests of their files.

The digests are of files and not of arrays, so that they hold for every mesh that reads them. Each
process digests the files that it wrote, before process 0 merges their indices and adds the digests
of what it merges. Orbax renames the folder after that: a checkpoint is complete with its manifest.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from absl import logging as absl_logging

from lm_jax.digests import digests_of, write_manifest

# Tensorstore 0.1.86 never frees the lists that this returns, and orbax asks for them at each save,
# for its logs alone: about 20 KiB a save were lost.
tensorstore.experimental_collect_matching_metrics = lambda *_, **__: []

# Orbax would copy arrays of the host first, in case they change meanwhile. None do here, and those
# of an imported model are as large as the model.
_verbosity = absl_logging.get_verbosity()
absl_logging.set_verbosity(absl_logging.ERROR)  # orbax warns of every handler that is replaced
ocp.type_handlers.register_type_handler(
    np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False), override=True
)
absl_logging.set_verbosity(_verbosity)

_OF_PROCESS = "ocdbt.process_{}/"  # the folder of a process, which merging leaves as it is
_DIGESTS = "digests.process_{}.json"  # until they are merged


class _Future(Protocol):
    """Work that orbax waits for."""

    def result(self, timeout: float | None = None) -> Any: ...

    def cancel(self) -> bool | None: ...


class DigestedHandler(ocp.StandardCheckpointHandler):
    """Saves as orbax's standard handler, and writes `digests.json` beside the arrays."""

    async def async_save(self, directory: Any, *args: Any, **kwargs: Any) -> list[_Future]:
        """Starts writing this process's arrays, and returns what has to end before `finalize`."""
        futures = await super().async_save(directory, *args, **kwargs) or []
        return [*futures, _Digests(futures, directory)]

    def finalize(self, directory: Any) -> None:
        """Merges what the processes wrote; called by process 0 after the ends of all of them."""
        super().finalize(directory)
        found: dict[str, list[str]] = {}
        for path in sorted(Path(directory).glob(_DIGESTS.format("*"))):
            found |= json.loads(path.read_text())
            path.unlink()
        merged = digests_of(Path(directory), lambda name: name not in found)
        write_manifest(Path(directory), merged | found)


class _Digests:
    """The digests of the files that this process wrote, taken where they are waited for."""

    def __init__(self, futures: Sequence[_Future], directory: Any):
        self._futures, self._directory = futures, directory

    def result(self, timeout: float | None = None) -> None:
        for future in self._futures:  # they are waited for in no order that orbax promises
            future.result(timeout)
        # Orbax makes the folder in the background, and shows its name until then.
        directory = Path(getattr(self._directory, "path", self._directory))
        index = jax.process_index()
        folder = _OF_PROCESS.format(index)
        found = digests_of(directory, lambda name: name.startswith(folder))
        (directory / _DIGESTS.format(index)).write_text(json.dumps(found))

    def cancel(self) -> None:
        for future in self._futures:
            future.cancel()


@ocp.args.register_with_handler(DigestedHandler, for_save=True)
class DigestedSave(ocp.args.StandardSave):
    """What `DigestedHandler` saves."""


@ocp.args.register_with_handler(DigestedHandler, for_restore=True)
class DigestedRestore(ocp.args.StandardRestore):
    """What `DigestedHandler` restores onto."""
