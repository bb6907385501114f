"""The map and the neighbours of embeddings."""

import numpy as np

from lm_jax.analysis.inspect import _embedding_map

PIECES = [" the", "the", " a", "a", "\n", "ing"]


class Pieces:
    def decode(self, tokens):
        return "".join(PIECES[token] for token in tokens)


def test_pieces_that_differ_by_a_space_have_names_that_differ():
    table = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0, 0.9, 0.2], [0, 0, 1], [0.2, 0, 0.9]])
    tokens = np.arange(6).repeat([6, 5, 4, 3, 2, 1])
    found = _embedding_map(table, Pieces(), tokens, lambda token: repr(PIECES[token]))
    assert found["words"] == ["' the'", "'the'", "' a'", "'a'", "'ing'"]  # not the empty line
    assert found["neighbours"]["' the'"][0] == "'the'"
    assert found["neighbours"]["'the'"][0] == "' the'"
    assert len(found["points"]) == 5
