"""Objects named by `file.py:ATTRIBUTE` or `module:ATTRIBUTE`, and what is refused."""

import pytest

from lm_jax.choices import choose, import_object, load_file, name_of
from lm_jax.code_names import absolute
from lm_jax.config.experiment import Experiment
from lm_jax.config.serialization import from_dict, to_dict
from lm_jax.errors import UserError
from lm_jax.models import family_named
from lm_jax.objectives import objective_of
from tests.experiments import tiny


def test_a_choice_is_a_key_or_an_object_of_a_file(tmp_path):
    path = tmp_path / "outside_choice.py"
    path.write_text("RUNS = []\nRUNS.append(1)\nvalue = object()\n")
    assert choose({"a": 1}, "a", "field") == 1
    value = choose({"a": 1}, f"{path}:value", "field")
    assert value is import_object(f"{path}:value", "field")  # the file ran once
    assert load_file(path).RUNS == [1]
    assert name_of({}, lambda x: x is value, "outside_choice") == (f"{path}:value", value)
    moved = tmp_path / "elsewhere" / path.name
    assert choose({}, f"{moved}:value", "field") is value  # found as a module of the same name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("b", "field is 'b'; expected one of a, c"),
        ("/nowhere/gone_file.py:X", "there is no file /nowhere/gone_file.py, nor a module"),
        ("no_such_module:X", "cannot be imported .*put its folder on PYTHONPATH"),
        ("json:NOTHING", "has no NOTHING"),
        (":X", "expected module:ATTRIBUTE or file.py:ATTRIBUTE"),
        ("../ext/..:X", "expected module:ATTRIBUTE or file.py:ATTRIBUTE"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        choose({"a": 1, "c": 2}, name, "field")
    assert "\n" not in str(caught.value)


def test_a_folder_does_not_stand_for_a_file_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "run_of_a_model").mkdir()  # such as the work directory of the model's run
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="no file /gone/run_of_a_model.py, .* has no FAMILY"):
        choose({}, "/gone/run_of_a_model.py:FAMILY", "field")


@pytest.mark.parametrize(
    ("text", "message"),
    [("import nothing_of_this_name\n", "ModuleNotFoundError"), ("def broken(:\n", "SyntaxError")],
)
def test_a_file_that_cannot_run_is_refused(text, message, tmp_path):
    path = tmp_path / "broken_extension.py"
    path.write_text(text)
    with pytest.raises(UserError, match=f"broken_extension.py cannot be imported .{message}"):
        load_file(path)


def test_a_path_is_recorded_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("mine.py:OBJECTIVE") == f"{tmp_path}/mine.py:OBJECTIVE"
    assert absolute("causal_lm") == "causal_lm" and absolute("json:loads") == "json:loads"
    recorded = to_dict(Experiment(objective="mine.py:OBJECTIVE"))
    assert recorded["objective"] == f"{tmp_path}/mine.py:OBJECTIVE"
    assert to_dict(from_dict(recorded)) == recorded
    named = tiny(optimizer__name="mine.py:OPTIMIZER")
    named.data.tokenizer.kind = "mine.py:KIND"
    recorded = to_dict(named)
    assert recorded["optimizer"]["name"] == f"{tmp_path}/mine.py:OPTIMIZER"
    assert recorded["data"]["tokenizer"]["kind"] == f"{tmp_path}/mine.py:KIND"


def test_an_object_of_another_type_is_refused():
    with pytest.raises(UserError, match="a function; expected an lm_jax.objectives.Objective"):
        objective_of(tiny(objective="json:loads"))
    with pytest.raises(UserError, match="a function; expected an lm_jax.models.Family"):
        family_named("json:loads")
