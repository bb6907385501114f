import math
from types import SimpleNamespace

import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.parallel import sharding
from lm_jax.parallel.mesh import parse


def mesh(text, processes):
    """A mesh of as many devices, consecutive ones on each of the processes."""
    shape = parse(text)
    count = math.prod(shape.values())
    owners = np.arange(count) * processes // count
    devices = np.array([SimpleNamespace(process_index=int(owner)) for owner in owners])
    return SimpleNamespace(shape=shape, devices=devices.reshape(tuple(shape.values())))


@pytest.mark.parametrize(
    ("text", "processes", "shares"),
    [
        ("data:4", 1, [(0, 1)]),
        ("data:4", 4, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ("data:2,fsdp:2,tensor:2", 2, [(0, 2), (1, 2)]),
        ("fsdp:8", 2, [(0, 2), (1, 2)]),
        (
            "data:2,tensor:4",
            4,
            [(0, 2), (0, 2), (1, 2), (1, 2)],
        ),  # an axis over two processes
        ("data:2,sequence:4", 4, [(0, 2), (0, 2), (1, 2), (1, 2)]),  # whole rows also of these
        ("tensor:2", 2, [(0, 1), (0, 1)]),  # each reads all rows
    ],
)
def test_a_process_reads_the_rows_that_its_devices_hold(text, processes, shares):
    found = [sharding.share_of_rows(mesh(text, processes), index) for index in range(processes)]
    assert found == shares


def test_rows_that_two_processes_hold_by_halves_are_refused():
    with pytest.raises(UserError, match="shares a batch unevenly among 2 processes"):
        sharding.share_of_rows(mesh("data:3,tensor:2", 2), 0)
