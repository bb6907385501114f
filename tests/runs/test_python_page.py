"""Every snippet of docs/python.md runs, in the order of the page, on a tiny run."""

import re
import shutil

import jax
import pytest

from lm_jax.runs import train_from_python
from tests.conftest import slow_but
from tests.documented_commands import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("trains", slow_but([True, False], False))
def test_every_snippet_of_the_page_runs(trains, language_model, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    shutil.copytree(language_model, tmp_path / "runs" / "quickstart")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lm_jax.runs.recorder.inspect", lambda *_: {})
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    if not trains:  # training is tested below; here each call finds the run that it would make

        def copy(experiment, directory, *others, **options):
            shutil.copytree(language_model, directory, dirs_exist_ok=True)
            options["on_metrics"](5, {"train/loss": 1.0})

        monkeypatch.setattr(train_from_python.training, "train", copy)
        monkeypatch.setattr(train_from_python.training, "train_fork", copy)
    assert len(SNIPPETS) >= 10
    names: dict = {}
    for snippet in SNIPPETS:
        try:
            exec(compile(snippet, "docs/python.md", "exec"), names)
        except Exception:
            pytest.fail(f"this snippet of docs/python.md fails:\n\n{snippet}", pytrace=True)
    printed = capsys.readouterr().out
    assert printed.startswith("<Run runs/quickstart: transformer for causal_lm, ")
    assert "'\U0001f642'" in printed
    if trains:
        assert [names[name].step for name in ("small", "tuned", "longer")] == [50, 20, 900]
        assert names["tuned"].perplexity(names["corpus"]) < names["run"].perplexity(names["corpus"])
        losses = [m["train/loss"] for _, m in names["history"] if "train/loss" in m]
        assert len(losses) == 5 and losses[-1] < losses[0]
