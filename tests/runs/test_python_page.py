"""Every snippet of docs/python.md runs, in the order of the page, on a tiny run."""

import re

import pytest

from tests.documented_commands import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_every_snippet_of_the_page_runs(language_model, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(language_model)
    monkeypatch.chdir(tmp_path)
    assert len(SNIPPETS) >= 6
    names: dict = {}
    for snippet in SNIPPETS:
        try:
            exec(compile(snippet, "docs/python.md", "exec"), names)
        except Exception:
            pytest.fail(f"this snippet of docs/python.md fails:\n\n{snippet}", pytrace=True)
    printed = capsys.readouterr().out
    assert printed.startswith("<Run runs/quickstart: transformer for causal_lm, ")
    assert "'\U0001f642'" in printed
