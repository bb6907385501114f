"""What documents and docstrings show exists: commands parse, links lead somewhere."""

import configparser
import json
import re

import pytest

from configs.shakespeare_char_cpu import get_config
from lm_jax.config.presets import PRESETS
from lm_jax.config.serialization import to_dict
from lm_jax.data.classification.images import READERS as IMAGE_READERS
from lm_jax.data.classification.labelled_text import READERS as LABEL_READERS
from lm_jax.data.readers import READERS
from lm_jax.data.seq2seq.readers import READERS as PAIR_READERS
from lm_jax.data.tokenizers import TOKENIZERS
from lm_jax.generation.beam_search import EARLY_STOPPING, LENGTH_PENALTIES
from lm_jax.models import FAMILIES
from lm_jax.nested import flatten
from lm_jax.objectives import OBJECTIVES
from lm_jax.parallel.mesh import AXES
from lm_jax.training.optimizers import OPTIMIZERS
from lm_jax.training.schedules import SCHEDULES
from tests.documented_commands import (
    ROOT,
    commands_of_docstring,
    commands_of_document,
    documents,
)
from tests.launch.programs import run

PROGRAMS = [
    p for folder in ("configs", "launch", "benchmarks") for p in (ROOT / folder).rglob("*.py")
]


def shown():
    """Returns each file's commands, but for those with `...` and with files of the reader."""
    found = {path: commands_of_document(path.read_text("utf-8")) for path in documents()}
    found |= {path: commands_of_docstring(path) for path in sorted(PROGRAMS)}
    return [
        (str(p.relative_to(ROOT)), c)
        for p, cs in found.items()
        for c in cs
        if not re.search(r"\.\.\.|my_", c)
    ]


WRONG = [
    "python -m launch.train --config=configs/quickstart.py --workdir=x --config.model.d_modell=4",
    "python -m launch.train --config=configs/quickstart.py --workdir=x --config.model.num_heads=7",
    "python -m launch.evaluate --workdir=x --strides=3",
    "python -m launch.evaluate",
    "python -m launch.sweep --config=configs/sweeps/none.py --plan",
]


def test_every_command_that_is_shown_parses(tmp_path):
    where, commands = zip(*sorted(set(shown())), strict=True)
    assert len(commands) > 80
    (tmp_path / "commands.json").write_text(json.dumps([*commands, *WRONG]))
    status, out, err = run("tests.documented_commands", str(tmp_path / "commands.json"))
    assert status == 0, err
    errors = json.loads(out)
    assert all(errors[len(commands) :])  # what would fail is found
    wrong = [found for found in zip(where, commands, errors, strict=False) if found[2]]
    assert not wrong, "\n\n".join("\n".join(each) for each in wrong)


def test_the_fields_that_stand_for_those_of_nanogpt_exist():
    page = (ROOT / "docs" / "from_nanogpt.md").read_text("utf-8")
    named = set(re.findall(r"`--config\.([\w.]+)", page))
    assert len(named) > 15 and named <= flatten(to_dict(get_config())).keys()


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        file = (path.parent / name) if name else path
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), flags=re.MULTILINE)
            assert heading in [re.sub(r"[^\w\- ]", "", t).lower().replace(" ", "-") for t in titles]


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_that_are_named_exist(path):
    for name in re.findall(
        r"`([\w.-]+/[\w./-]*\.(?:py|csv|json|sh|sbatch|yaml|md))`", path.read_text()
    ):
        assert (ROOT / name).exists() or (ROOT / "lm_jax" / name).exists(), name


CHOICES = {
    "docs/models.md": [FAMILIES, PRESETS, OBJECTIVES, OPTIMIZERS, SCHEDULES],
    "docs/data.md": [READERS, LABEL_READERS, PAIR_READERS, IMAGE_READERS, TOKENIZERS],
    "docs/generation.md": [LENGTH_PENALTIES, EARLY_STOPPING],
    "docs/clusters.md": [AXES],
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_page_names_every_choice(name):
    page = (ROOT / name).read_text("utf-8")
    missing = [c for choices in CHOICES[name] for c in choices if not re.search(rf"\b{c}\b", page)]
    assert not missing


def test_messages_install_extras_that_there_are_from_the_checkout():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    paths = [path for folder in ("lm_jax", "launch") for path in (ROOT / folder).rglob("*.py")]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    named = re.findall(r"pip install -e '\.\[(\w+)\]'", sources)
    assert len(named) > 15 and set(named) <= extras
    assert not re.findall(r"pip install '?lm_jax", sources)
