"""What the rest of the package asks of data: batches by step."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np


class Batches(Protocol):
    """Random access to the batches of a run: `batches[step]` depends on nothing else."""

    def __getitem__(self, step: int) -> Mapping[str, np.ndarray]: ...
