import pytest

from lm_jax.file_names import is_below, is_file_name


@pytest.mark.parametrize(
    ("name", "is_one_below", "is_name"),
    [
        ("a", True, True),
        ("a.b c", True, True),
        ("..a", True, True),
        ("a/b", True, False),
        ("a/", True, False),
        ("./a", True, False),
        ("", False, False),
        (".", False, False),
        ("..", False, False),
        ("/a", False, False),
        ("a/../../b", False, False),
        ("a\0", False, False),
    ],
)
def test_names_of_files_stay_in_their_folder(name, is_one_below, is_name):
    assert (is_below(name), is_file_name(name)) == (is_one_below, is_name)
