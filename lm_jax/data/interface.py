"""The contract of training batches."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np


class Batches(Protocol):
    """Random access to the batches of a run: `batches[step]` depends on the step alone."""

    @property
    def note(self) -> str:
        """What a log should say of these batches; "": nothing, as subclasses inherit."""
        return ""

    def __getitem__(self, step: int) -> Mapping[str, np.ndarray]: ...
