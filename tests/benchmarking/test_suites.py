import json
import sys

import numpy as np
import pytest

from lm_jax.benchmarking import decode, evaluate, startup
from lm_jax.benchmarking.input_pipeline import measure, wait_seconds
from lm_jax.benchmarking.tables import table_of
from lm_jax.data.text.windows import evaluation_batches
from lm_jax.errors import UserError
from lm_jax.models.recurrent.language_model import RecurrentConfig
from tests.benchmarking.programs import small


def test_decoding_is_measured():
    result = decode.measure(small(), batch_size=2, new_tokens=3, rounds=1, mode="none")
    json.dumps(result)
    assert result["baseline"] == "Hugging Face is left out by --torch=none"
    ours = result["programs"]["lm_jax"]
    assert ours["per_second"] == pytest.approx(2 / ours["seconds"]["median"])
    assert result["bytes_per_step"]["parameters"] == 4 * result["parameters"]
    assert result["bytes_per_step"]["cache"] == 2 * 1 * 2 * 4 * 32 * 4  # keys and values


def test_reading_a_prompt_is_measured():
    result = decode.measure(small(), 2, 1, rounds=1, mode="none", prompt_tokens=9)
    assert result["prompt_tokens"] == 9 and result["steps_per_round"] == 1
    assert result["bytes_per_step"]["cache"] == 2 * 1 * 2 * (9 + 1) * 32 * 4


def test_decoding_reads_the_carry_of_any_model():
    lstm = RecurrentConfig(50, context_length=16, num_layers=2, d_hidden=8)
    result = decode.measure(small(model=lstm), batch_size=3, new_tokens=2, rounds=1, mode="none")
    assert result["bytes_per_step"]["cache"] == 2 * 2 * 3 * 8 * 4  # h and c of each layer


def test_tokens_beyond_the_context_are_refused():
    with pytest.raises(UserError, match="do not fit the model.context_length 16"):
        decode.measure(small(), batch_size=1, new_tokens=16, rounds=1, mode="none")
    with pytest.raises(UserError, match="1 token and a prompt of 16 do not fit"):
        decode.measure(small(), 1, 1, rounds=1, mode="none", prompt_tokens=16)


def test_evaluation_is_measured():
    result = evaluate.measure(small(), 3, 1, {})
    json.dumps(result)
    assert list(result["programs"]) == ["lm_jax"]
    assert result["targets_per_step"] == 64 and result["steps_per_round"] == 3


def test_random_documents_fill_their_rows():
    whole = evaluate.random_documents(96, 50)
    batches = evaluation_batches(whole, context_length=16, batch_size=2)
    assert sum(batch["weights"].sum() for batch in batches) == 96 and len(batches) == 3
    parts = evaluate.random_documents(96, 50, 10)
    assert len(parts.characters) == 9 and np.all(parts.tokens[parts.starts] == 0)
    assert np.count_nonzero(parts.tokens == 0) == 10


@pytest.mark.slow
def test_the_pipeline_is_measured_against_the_model():
    result = measure(small(), None, 3)
    json.dumps(result)
    made, consumed = (result["programs"][name]["per_second"] for name in ("made", "consumed"))
    assert made > 0 and consumed > 0 and result["made_over_consumed"] > 0
    wait = result["wait_seconds"]
    assert 0 <= wait["median"] <= wait["percentile_99"] <= wait["most"]


def test_a_wait_is_from_the_end_of_a_dispatch_to_the_next_but_one():
    # Dispatches are handed over ahead: the third while the second runs, the fourth after the third.
    assert wait_seconds([0.0, 5.0, 6.0, 9.0], [5.0, 6.5, 7.0, 11.0]) == [0.0, 2.0]


def test_the_start_of_a_command_is_timed_cold_and_warm():
    code = (
        "import os, pathlib;"
        "cache = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR']) / 'it';"
        "print('warm' if cache.exists() else 'cold', flush=True);"
        f"cache.touch(); print('{startup.FIRST_STEP} 1 s')"
    )
    result = startup.measure([sys.executable, "-c", code], 2)
    assert [len(result[kind]["all"]) for kind in ("cold", "warm")] == [2, 2]
    assert all(value > 0 for kind in result.values() for value in kind["all"])


def test_a_failed_command_is_reported_with_its_last_line():
    with pytest.raises(UserError, match="made no first step: error: no"):
        startup.measure([sys.executable, "-c", "raise SystemExit('error: no')"], 1)


def test_a_first_step_has_its_stages_in_order():
    stages = startup.first_step(small(), 0.0)
    assert 0 < stages["functions"] < stages["compiled"] < stages["first_step"]


def test_tables_say_what_was_measured():
    spread = {"median": 0.25, "lower_quartile": 0.2, "upper_quartile": 0.3}
    rate = {"per_second": 4096.0, "seconds": spread, "mfu": 0.5}
    case = {"unit": "tokens", "ratio": 1.25, "ratio_range": [1.0, 1.5], "compile_seconds": 3.0}
    case |= {"programs": {"lm_jax": rate, "pytorch": rate}, "baseline": "PyTorch 3"}
    lines = table_of({"a case": case})
    shown = "a case lm_jax 4,100 tokens 250 200 to 300 50.0% 1.25 1.00 to 1.50"
    assert lines[1].split() == shown.split()
    assert lines[2].split()[-1] == "50.0%"
    assert lines[3] == "a case: compiled in 3.00 s, PyTorch 3"
    started = table_of({"a case": {"cold": {"median": 12.34}, "warm": {"median": 3.0}}})
    assert started[1].split() == ["a", "case", "12.3", "3.00"]
