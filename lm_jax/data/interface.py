"""The contract of training batches."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np


class Batches(Protocol):
    """Random access to the batches of a run: `batches[step]` depends on the step alone."""

    @property
    def note(self) -> str:
        """What a log should say of these batches; "": nothing, as subclasses inherit."""
        return ""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a run records of these batches in its results, by name."""
        return {}

    def __getitem__(self, step: int) -> Mapping[str, np.ndarray]: ...
