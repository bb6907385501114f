from types import SimpleNamespace

import numpy as np
import pytest

from lm_jax import sharding


def mesh(data, fsdp, tensor, processes):
    """A mesh of as many devices, consecutive ones on each of the processes."""
    shape = {"data": data, "fsdp": fsdp, "tensor": tensor, "sequence": 1}
    owners = np.arange(data * fsdp * tensor) * processes // (data * fsdp * tensor)
    devices = np.array([SimpleNamespace(process_index=int(owner)) for owner in owners])
    return SimpleNamespace(shape=shape, devices=devices.reshape(tuple(shape.values())))


@pytest.mark.parametrize(
    ("axes", "processes", "shares"),
    [
        ((4, 1, 1), 1, [(0, 1)]),
        ((4, 1, 1), 4, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ((2, 2, 2), 2, [(0, 2), (1, 2)]),
        ((1, 8, 1), 2, [(0, 2), (1, 2)]),
        ((2, 1, 4), 4, [(0, 2), (0, 2), (1, 2), (1, 2)]),  # a tensor axis over two processes
        ((1, 1, 2), 2, [(0, 1), (0, 1)]),  # each reads all rows
    ],
)
def test_a_process_reads_the_rows_that_its_devices_hold(axes, processes, shares):
    found = [sharding.share_of_rows(mesh(*axes, processes), index) for index in range(processes)]
    assert found == shares


def test_rows_that_two_processes_hold_by_halves_are_refused():
    with pytest.raises(ValueError, match="shares a batch unevenly among 2 processes"):
        sharding.share_of_rows(mesh(3, 1, 2, 2), 0)
