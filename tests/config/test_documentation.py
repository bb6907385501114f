from pathlib import Path

from lm_jax.config.documentation import field_rows, page
from lm_jax.config.experiment import Experiment

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_what_the_code_says():
    message = "write it anew: python -m lm_jax.config.documentation > docs/configuration.md"
    assert PAGE.read_text(encoding="utf-8") == page(), message


def test_a_row_says_what_a_field_means_and_accepts():
    rows = {row.path: row for row in field_rows(Experiment())}
    assert rows["training.num_steps"] == (
        "training.num_steps",
        "int",
        "1000",
        "Optimizer steps. At least 1.",
    )
    assert "One of constant, linear, cosine, rsqrt, wsd, or file.py" in rows["schedule.name"].help
    assert rows["tensorboard"].value == "true"
    assert all(row.help.endswith(".") and len(row.help) > 5 for row in rows.values())
