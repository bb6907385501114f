"""A few damages of a whole file for every reader, always the same ones."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import KINDS, Mutation, mutated
from tests.fuzz.target import attack
from tests.fuzz.targets import TARGETS

MUTATIONS = st.lists(
    st.builds(
        Mutation,
        st.sampled_from(list(KINDS)),
        *[st.integers(0, (1 << 16) - 1)] * 3,
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_one_line(name, tmp_path):
    target = TARGETS[name]
    target.prepare(tmp_path)
    whole = target.seed()
    target.read(target.write(tmp_path, whole))  # a seed is no damage: it must be read

    @settings(
        max_examples=target.examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(MUTATIONS)
    def damaged(mutations):
        attack(target, tmp_path, mutated(whole, mutations))

    damaged()


def test_there_are_two_dozen_readers():
    assert len(TARGETS) >= 24
