from lm_jax.nested import flatten


def test_paths_are_joined_by_dots_and_empty_parts_leave_nothing():
    tree = {"a": 1, "b": {"c": [2, {"d": 3}], "e": {"f": None}}, "g": {}}
    assert flatten(tree) == {"a": 1, "b.c": [2, {"d": 3}], "b.e.f": None}
