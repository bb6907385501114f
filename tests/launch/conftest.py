"""A run that the tests of the programs share."""

import pytest

from tests.launch.programs import train


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The work directory and the results of TINY; a test that changes it copies it first."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    return workdir, train(workdir, "--config.tensorboard=true")
