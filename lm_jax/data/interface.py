"""The contract of training batches."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np


class Batches(Protocol):
    """Random access to the batches of a run: `batches[step]` depends on the step alone."""

    def __getitem__(self, step: int) -> Mapping[str, np.ndarray]: ...
