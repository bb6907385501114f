import pytest

from lm_jax.data import DataConfig, TokenizerConfig, prepare
from lm_jax.plurals import counted


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (1234, "1,234 runs")]
)
def test_a_noun_has_the_number_of_its_count(count, text):
    assert counted(count, "run") == text
    assert counted(count, "run", "of runs") == (text if count == 1 else text[:-4] + "of runs")


@pytest.mark.parametrize(("repeats", "words"), [(1, "1 repeated paragraph "), (2, "2 repeated p")])
def test_what_is_said_of_data_counts_so(tmp_path, repeats, words):
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text(f"{number}\n\n" + "again " * (number <= repeats))
    tokenizer = TokenizerConfig("byte")
    found = prepare(DataConfig(source="files", path=str(tmp_path), tokenizer=tokenizer))
    assert f"; {words}" in found.description["summary"]
