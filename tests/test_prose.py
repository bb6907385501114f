"""Documents, docstrings and comments avoid phrases that slow a reader down."""

import ast
import re
from pathlib import Path

import pytest

from tests.documented_commands import ROOT, documents

SLOW = {
    "a sentence that begins with `Of`": r"""(^|["'(]|# |[.:;] )Of [a-z]""",
    "that which": r"\bthat which\b",
    "as many as": r"\bas many as\b",
    "what it comes to": r"\bwhat (it|they|this) (come|came|comes) to\b",
    "front door": r"\bfront doors?\b",
    "the house": r"\bthe house\b",
}
ROOMS = ("lm_jax", "launch", "configs", "benchmarks", "tests")
CODE = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path != Path(__file__)]


@pytest.mark.parametrize("phrase", SLOW)
def test_no_text_has_the_phrase(phrase):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in [*documents(), *CODE]
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(SLOW[phrase], line)
    ]
    assert not found, "\n".join(found)


def test_no_variable_is_called_of():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if getattr(node, "id", getattr(node, "arg", None)) == "of"
    ]
    assert not found


NOUNS = {"As", "Does", "Is", "Its", "This"} | {
    "Gradients",
    "Keys",
    "Losses",
    "Parameters",
    "Scores",
}


def test_a_functions_docstring_begins_with_what_it_does():
    """It begins with a verb: `Returns`, `Raises`, `Splits`; a property has a noun, as a class."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {docstring.splitlines()[0]}"
        for path in CODE
        if path.relative_to(ROOT).parts[0] != "tests"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and (docstring := ast.get_docstring(node))
        if not any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
        if not re.match("[A-Z][a-z-]+[^s]s\\b", docstring) or docstring.split()[0] in NOUNS
    ]
    assert not found, "\n".join(found)
