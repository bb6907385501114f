"""A run inside lm-evaluation-harness has the figures of the same model in NumPy."""

from types import SimpleNamespace

import jax
import pytest

from lm_jax.data import TokenizerConfig, train_tokenizer
from lm_jax.evaluation.token_scores import Scorer
from lm_jax.parallel import sharding
from tests.parity.harness_tasks import CONTEXT, VOCABULARY, numpy_model, run_harness
from tests.parity.test_harness import MODEL

pytest.importorskip("lm_eval")


def test_the_adapter_has_the_figures_of_the_model(tmp_path, monkeypatch):
    from lm_jax.interop import harness

    mesh = sharding.make_mesh("data:1", jax.devices()[:1])
    tokenizer = train_tokenizer(TokenizerConfig("byte"), [""])
    scorer = Scorer(MODEL, {}, mesh, tokenizer, VOCABULARY, CONTEXT)
    monkeypatch.setattr(harness, "scorer_of", lambda run: scorer)
    monkeypatch.setattr(harness, "longest_context", lambda built: CONTEXT)
    run = SimpleNamespace(workdir=tmp_path, built=None)
    model = harness.HarnessModel(run, begins=False)
    found, expected = (run_harness(each, tmp_path) for each in (model, numpy_model()))
    assert found == pytest.approx(expected, rel=1e-6) and len(found) == 6


def test_files_of_tasks_are_named_and_faults_are_one_line(tmp_path):
    from lm_jax.errors import UserError
    from lm_jax.interop import harness

    path = tmp_path / "a.yaml"
    path.write_text("task: mine\nf: !function x.y\n")
    assert harness._names_of([str(path), "lambada"]) == (["mine", "lambada"], [str(tmp_path)])
    path.write_text("group: [")
    with pytest.raises(UserError, match="a.yaml is no YAML"):
        harness._names_of([str(path)])
    path.write_text("x: 1")
    with pytest.raises(UserError, match="has no `task: NAME`"):
        harness._names_of([str(path)])
    path.write_bytes(b"task: \xff")
    with pytest.raises(UserError, match="is no YAML: 'utf-8' codec"):
        harness._names_of([str(path)])
    with pytest.raises(UserError, match="there is no such file"):
        harness._names_of(["none.yaml"])
