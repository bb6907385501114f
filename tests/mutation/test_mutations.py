"""The list of lines to break follows the code."""

from tests.mutation.mutations import MUTATIONS
from tests.mutation.run import misplaced


def test_every_line_to_break_is_there_once():
    assert not misplaced(MUTATIONS)
    assert len(MUTATIONS) >= 60
