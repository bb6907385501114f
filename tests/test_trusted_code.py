"""Code that a file on disk names runs only where this user has named it, or says so."""

import importlib
import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

import lm_jax
from lm_jax import trusted_code
from lm_jax.choices import choose, load_file
from lm_jax.code_names import code_of
from lm_jax.config.experiment import Experiment
from lm_jax.config.serialization import allow_code, from_dict, to_dict
from lm_jax.data import DataConfig, TokenizerConfig, load_tokenizer, prepare
from lm_jax.errors import UserError
from lm_jax.interop.export_model import export_model
from lm_jax.json_values import read_object
from lm_jax.reports.compare_runs import compare
from lm_jax.runs import workdir
from lm_jax.runs.continuation import Fork
from lm_jax.runs.initial_state import fine_tuned, inherited_variables
from lm_jax.runs.status import read_status
from lm_jax.sweeps.directory import read_plan
from lm_jax.trusted_code import UntrustedCode
from tests.experiments import tiny
from tests.trusted_code import has_run, new_process, run_directory, write


@pytest.fixture(autouse=True)
def own_list(tmp_path, monkeypatch):
    """The list of a user who has run nothing yet."""
    new_process(monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path / "state" / "lm_jax" / "trusted_code.txt"
    for name in set(sys.modules) - before:  # files of this test
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]
    importlib.invalidate_caches()


def read(tmp_path, name):
    """Reads a file of JSON that holds a name of code."""
    (tmp_path / "read.json").write_text(json.dumps({"a": [{"b": name}]}))
    return read_object(tmp_path / "read.json")


def forget(file):
    """Lets a file run again, as in a new process."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == str(file):
            del sys.modules[name]


def test_code_that_a_file_names_runs_with_consent_and_then_without_a_question(
    tmp_path, own_list, monkeypatch, capsys
):
    evil = write(tmp_path / "evil.py")
    read(tmp_path, f"{evil}:THING")
    with pytest.raises(UntrustedCode) as caught:
        choose({}, f"{evil}:THING", "logger")
    message = str(caught.value)
    for part in (str(tmp_path / "read.json"), f"{evil}:THING", "logger", "--trust_code"):
        assert part in message
    assert "\n" not in message and not has_run(evil) and not own_list.exists()
    trusted_code.consent()
    choose({}, f"{evil}:THING", "logger")
    assert has_run(evil) and own_list.read_text() == f"{evil}:THING\n"
    assert f"{evil}:THING" in capsys.readouterr().err
    new_process(monkeypatch)
    forget(evil)
    read(tmp_path, f"{evil}:THING")
    choose({}, f"{evil}:THING", "logger")
    assert has_run(evil)
    with pytest.raises(UntrustedCode):  # it was not asked for
        read(tmp_path, f"{evil}:OTHER")
        choose({}, f"{evil}:OTHER", "logger")


def test_what_a_user_types_runs_and_is_remembered_once_it_is_written(
    tmp_path, own_list, monkeypatch
):
    mine = write(tmp_path / "mine_typed.py")
    choose({}, f"{mine}:THING", "logger")
    assert has_run(mine) and not own_list.exists()
    read(tmp_path, f"{mine}:THING")
    choose({}, f"{mine}:THING", "logger")  # its code runs here already
    values = {"logger": f"{mine}:THING", "prompts": ["json:tool", f"{mine}:ELSE"]}
    trusted_code.remember(values)
    trusted_code.remember(values)
    assert own_list.read_text() == f"{mine}:THING\n"
    new_process(monkeypatch)
    read(tmp_path, f"{mine}:THING")
    trusted_code.check(f"{mine}:THING", "logger")


def test_names_of_all_forms_are_refused(tmp_path, monkeypatch):
    evil = write(tmp_path / "home" / "evil_forms.py")
    nested = write(tmp_path / "home" / "evil_package" / "__init__.py")
    inner = write(tmp_path / "home" / "evil_package" / "inner.py")
    (tmp_path / "link.py").symlink_to(evil)
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.syspath_prepend("")
    names = [
        "evil_forms.py:THING",
        "../home/evil_forms.py:THING",
        f"{tmp_path}/link.py:THING",
        "evil_forms:THING",
        "/gone/evil_forms.py:THING",  # found as a module of its name
        "evil_package:THING",
        "evil_package.inner:THING",
        "evil_package.gone:THING",
        "os:system",
        "lm_jax.choices:load_file",
    ]
    for name in names:
        read(tmp_path, name)
        with pytest.raises(UserError):
            choose({}, name, "field")
        if name != "evil_package.gone:THING":
            with pytest.raises(UntrustedCode):
                choose({}, name, "field")
    assert not any(map(has_run, (evil, nested, inner)))


def test_a_relative_name_is_not_laundered_by_its_absolute_path(tmp_path, monkeypatch):
    evil = write(tmp_path / "evil_relative.py")
    monkeypatch.chdir(tmp_path)
    experiment = from_dict(
        read_object(
            run_directory(tmp_path / "run", objective="evil_relative.py:THING") / "config.json"
        )
    )
    allow_code(experiment)
    again = from_dict(to_dict(experiment))
    assert again.objective == f"{evil}:THING"
    with pytest.raises(UntrustedCode):
        choose({}, again.objective, "objective")
    assert not has_run(evil)


def test_a_package_before_a_trusted_one_does_not_run(tmp_path, monkeypatch):
    own = write(tmp_path / "own" / "pack_shadowed" / "models.py")
    write(tmp_path / "own" / "pack_shadowed" / "__init__.py")
    evil = write(tmp_path / "strange" / "pack_shadowed" / "__init__.py")
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    trusted_code.allow(["pack_shadowed.models:THING"])
    read(tmp_path, "pack_shadowed.models:THING")
    trusted_code.check("pack_shadowed.models:THING", "field")
    monkeypatch.syspath_prepend(str(tmp_path / "strange"))
    with pytest.raises(UserError, match="no module pack_shadowed.models"):
        choose({}, "pack_shadowed.models:THING", "field")
    assert not has_run(evil) and not has_run(own)


def test_code_is_where_an_import_finds_it(tmp_path, monkeypatch):
    for path in ("pack_a/__init__.py", "pack_a/b/__init__.py", "pack_a/b/c.py", "pack_a/d.py"):
        write(tmp_path / path)
    for path in ("space_e/f/g.py", "space_e/h.py", "alone_i.py"):
        write(tmp_path / path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ["pack_a", "pack_a.b", "pack_a.b.c", "pack_a.d", "space_e.f.g", "space_e.h", "alone_i"]
    found = {name: code_of(f"{name}:X") for name in names}
    assert not any(path.exists() for path in tmp_path.rglob("*.ran"))
    for name in [*names, "json.decoder", "sysconfig"]:
        file = importlib.import_module(name).__file__
        assert found.get(name, code_of(f"{name}:X")) == code_of(f"{name}:X") == f"{file}:X"
    assert code_of("itertools:X") == "itertools:X"  # it has no file
    for name in ("nothing_here:X", "pack_a.nothing:X", "alone_i.pack_a:X", "a b:X", "/x.py:X\n"):
        assert code_of(name) is None


def test_bytecode_beside_a_file_does_not_run(tmp_path):
    harmless, evil = tmp_path / "looked_at.py", write(tmp_path / "hidden.py")
    harmless.write_text("THING = 1\n".ljust(evil.stat().st_size))
    os.utime(harmless, (1, 1))
    os.utime(evil, (1, 1))  # bytecode counts where the file's time and size are as it says
    cache = importlib.util.cache_from_source(str(harmless))
    py_compile.compile(str(evil), cfile=cache, dfile=str(harmless))
    assert load_file(harmless).THING == 1
    assert not list(tmp_path.glob("*.ran"))


def test_a_process_that_is_started_may_run_what_this_one_may(tmp_path, monkeypatch, capsys):
    blocked = tmp_path / "state"
    blocked.write_text("a file where the list would be\n")
    mine = write(tmp_path / "mine_started.py")
    choose({}, f"{mine}:THING", "logger")
    trusted_code.remember(f"{mine}:THING")
    trusted_code.remember(f"{mine}:THING")
    assert capsys.readouterr().err.count("is not remembered") == 1
    code = (
        "import sys; from pathlib import Path; from lm_jax import trusted_code as t\n"
        "t.note([sys.argv[1]], Path('read.json')); t.check(sys.argv[1], 'logger')"
    )
    command = [sys.executable, "-c", code, f"{mine}:THING"]
    assert subprocess.run(command, check=False).returncode == 0
    monkeypatch.delenv("LM_JAX_TRUSTED_CODE")
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "UntrustedCode" in found.stderr


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"model": {"family": "EVIL"}}, "model.family"),
        ({"data": {"kind": "EVIL"}}, "data.kind"),
        ({"objective": "EVIL"}, "objective"),
        ({"optimizer": {"name": "EVIL"}}, "optimizer.name"),
        ({"schedule": {"name": "EVIL"}}, "schedule.name"),
        ({"logger": "EVIL"}, "logger"),
        ({"data": {"tokenizer": {"kind": "EVIL"}}}, "data.tokenizer.kind"),
        ({"data": {"source": "EVIL"}}, "data.source"),
        ({"data": {"split": "EVIL"}}, "data.split"),
        ({"data": {"packing": "EVIL"}}, "data.packing"),
        ({"evaluation": {"windows": "EVIL"}}, "evaluation.windows"),
    ],
)
def test_a_field_of_a_run_runs_no_code(parts, field, tmp_path):
    evil = write(tmp_path / "evil_field.py")
    named = json.loads(json.dumps(parts).replace("EVIL", f"{evil}:THING"))
    directory = run_directory(tmp_path / "run", **named)
    with pytest.raises(UntrustedCode, match=rf"{directory}/config.json names .* \({field}\)"):
        lm_jax.train(workdir.read_experiment(directory), tmp_path / "new")
    assert not has_run(evil) and not (tmp_path / "new").exists()


def test_no_reader_of_directories_runs_code(tmp_path):
    evil = write(tmp_path / "evil_readers.py")
    named = {"family": f"{evil}:THING"}
    directory = run_directory(tmp_path / "run", model=named, fine_tuning={"workdir": "earlier"})
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "tokenizer.json").write_text(json.dumps({"kind": f"{evil}:THING"}))
    (tmp_path / "sweep.json").write_text(
        json.dumps({"a": _planned() | {"experiment": {"model": named}}})
    )
    for call in (
        lambda: lm_jax.load(directory),
        lambda: workdir.read_experiment(directory),
        lambda: load_tokenizer(directory / "tokenizer"),
        lambda: prepare(DataConfig(tokenizer=TokenizerConfig(path=str(directory)))),
        lambda: lm_jax.train(tiny(), directory),
        lambda: fine_tuned(None, directory),
        lambda: inherited_variables(tiny(fine_tuning__workdir=str(directory)), None),
        lambda: Fork(directory, None, tmp_path / "new", None),
        lambda: export_model(directory, tmp_path / "new"),
        lambda: read_plan(tmp_path),
    ):
        with pytest.raises(UntrustedCode):
            call()
    assert workdir.results_of(Experiment(), directory) is None
    assert [str(path) for path in workdir.begun_from(directory)] == [str(directory), "earlier"]
    assert read_status("run", directory, "").state == "stopped"
    assert not has_run(evil)


def _planned():
    names = ("parameters", "non_embedding_parameters", "steps", "training_tokens")
    cost = dict.fromkeys((*names, "flops_per_step", "state_bytes"), 1)
    return {"address": "1", "labels": {}, "cost": cost}


def test_a_run_that_names_code_is_compared_by_its_json(tmp_path):
    evil = write(tmp_path / "evil_compared.py")
    for name in ("a", "b"):
        run_directory(tmp_path / name, model={"family": f"{evil}:THING"}, seed=ord(name))
        figures = {"cross_entropy": 1.0, "accuracy": 0.5, "tokens": 7}
        results = {
            "validation": figures,
            "timings": {"total_seconds": 1.0},
            "parameters": 1,
            "step": 1,
        }
        (tmp_path / name / "evaluation.json").write_text(json.dumps(results))
        (tmp_path / name / "data.json").write_text("{}")
    (row,) = compare([tmp_path / "a", tmp_path / "b"])
    assert row.runs == 2 and not has_run(evil)


def test_consent_from_python_holds_for_all_that_a_run_names(tmp_path, own_list):
    evil, reader = write(tmp_path / "evil_loaded.py"), write(tmp_path / "evil_reader.py")
    parts = {"model": {"family": f"{evil}:THING"}, "data": {"source": f"{reader}:THING"}}
    directory = run_directory(tmp_path / "run", **parts)
    with pytest.raises(UserError, match=r"is '.*', a object; expected an lm_jax.models.Family"):
        lm_jax.load(directory, trust_code=True)
    assert has_run(evil) and not has_run(reader)
    assert sorted(own_list.read_text().split()) == [f"{evil}:THING", f"{reader}:THING"]


def test_a_text_that_looks_like_a_name_is_not_trusted_with_the_code(
    tmp_path, own_list, monkeypatch
):
    evil = write(tmp_path / "evil_beside.py")
    (tmp_path / "data").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    texts = [
        "data:1",
        "data:thing",
        "json:tool",
        "numpy:2 kinds",
        f"{evil}:THING",
        "evil_beside:ELSE",
    ]
    (tmp_path / "config.json").write_text(json.dumps({"a": texts}))
    read_object(tmp_path / "config.json")
    with pytest.raises(UntrustedCode) as caught:
        choose({}, f"{evil}:THING", "logger")
    assert "data:" not in str(caught.value) and "tool" not in str(caught.value)
    trusted_code.trust_named_in(tmp_path / "config.json")
    assert sorted(own_list.read_text().split("\n")) == ["", f"{evil}:ELSE", f"{evil}:THING"]


def test_a_user_without_a_home_has_no_list(tmp_path, monkeypatch, capsys):
    def no_home():
        raise RuntimeError

    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # which the standard says to ignore
    monkeypatch.setattr(Path, "home", no_home)
    mine = write(tmp_path / "mine_homeless.py")
    choose({}, f"{mine}:THING", "logger")
    trusted_code.remember(f"{mine}:THING")
    assert "there is no home directory" in capsys.readouterr().err
    read(tmp_path, f"{mine}:THING")
    trusted_code.check(f"{mine}:THING", "logger")


def test_the_list_does_not_follow_a_link(tmp_path, own_list, capsys):
    mine = write(tmp_path / "mine_linked.py")
    own_list.parent.mkdir(parents=True)
    own_list.symlink_to(tmp_path / "target")
    choose({}, f"{mine}:THING", "logger")
    trusted_code.remember(f"{mine}:THING")
    assert not (tmp_path / "target").exists() and "is a link" in capsys.readouterr().err
