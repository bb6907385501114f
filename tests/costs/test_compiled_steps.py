"""The predictions that documents quote: where they stand, and that the program has not grown."""

import json

import jax
import pytest

from benchmarks.compiled_cases import CASES, check, row
from tests.costs.test_topologies import needs_wheels
from tests.launch.programs import ROOT

FILES = {
    path.stem.removeprefix("compiled_"): path
    for path in (ROOT / "benchmarks" / "results").glob("compiled_*.json")
}


def test_documents_show_the_cases_that_are_kept():
    page = (ROOT / "docs" / "results" / "compiled.md").read_text(encoding="utf-8")
    assert {"gpt2_small_h100", "gpt2_small_v5e_8"} <= FILES.keys() <= CASES.keys()
    for case, path in FILES.items():
        kept = json.loads(path.read_text(encoding="utf-8"))
        assert kept["arguments"] == CASES[case]
        assert row(case, kept) in page


@pytest.mark.slow
def test_the_step_of_gpt2_on_an_h100_has_not_grown(monkeypatch):
    needs_wheels("h100")
    kept = json.loads(FILES["gpt2_small_h100"].read_text(encoding="utf-8"))
    recorded = kept["environment"]["versions"]["jax"]
    if recorded != jax.__version__:
        pytest.skip(f"recorded with jax {recorded}; python -m benchmarks.compiled_steps")
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # those that tests compile quickly with
    found = check(CASES["gpt2_small_h100"])
    for name, figure in {
        "bytes": lambda results: sum(kind["bytes"] for kind in results["kernels"].values()),
        "temporaries": lambda results: results["memory"]["temporaries"],
        "seconds": lambda results: results["predicted"]["step_seconds"],
    }.items():
        assert figure(found) <= 1.03 * figure(kept), name
