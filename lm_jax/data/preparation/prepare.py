"""Makes a corpus: `documents/*.jsonl.gz`, `manifest.json`, `statistics.json`, `report.html`.

With a tokenizer, `tokens/` joins them.

Everything is written to `OUTPUT.partial`, which becomes the output by one renaming. The number of
tasks is the configuration's, so the bytes do not depend on the workers; what was done before a
crash is not done again.
"""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_jax.atomic_files import refuse_links, write_bytes
from lm_jax.choices import choose
from lm_jax.data import tokenizers
from lm_jax.data.cache import Damaged
from lm_jax.data.files import find_files
from lm_jax.data.preparation import statistics
from lm_jax.data.preparation.config import PreparationConfig, names_in
from lm_jax.data.preparation.documents import (
    Dropped,
    ReadSources,
    Source,
    WriteCorpus,
    read_tallies,
    split_sources,
)
from lm_jax.data.preparation.executors import EXECUTORS, OnProgress, silence
from lm_jax.data.preparation.plan import LanguageModel, Plan
from lm_jax.data.preparation.sealed_files import SealedWriter, checked_files, noted_damage
from lm_jax.data.preparation.stages import STAGES, AddStage
from lm_jax.data.preparation.tokens import add_tokens, token_manifest
from lm_jax.data.tokenizer_config import tokenizer_of
from lm_jax.errors import UserError, names_path
from lm_jax.json_values import read_object
from lm_jax.plurals import counted

_ATTEMPTS = 3  # after which a disk or memory is to blame that damages files again and again
_FINISHED = "finished_work"  # the name of `work` while it is deleted
_LIBRARIES = ("lm_jax", "datatrove", "py3langid", "phonenumberslite")

# (statistics, manifest, file) -> None
WritePage = Callable[[dict[str, Any], dict[str, Any], Path], None]


def prepare(
    config: PreparationConfig,
    output: Path,
    workers: int,
    write_page: WritePage,
    on_progress: OnProgress = lambda phase, done, total: None,
    language_model: LanguageModel | None = None,
) -> dict[str, Any] | None:
    """Returns the manifest of the corpus in a directory, which is made unless it is there.

    Args:
      workers: tasks that run at the same time.
      write_page: writes report.html.
      language_model: for the stage `perplexity`.

    Returns:
      None while jobs of a cluster are still to finish; the same call then completes the corpus.

    Raises:
      UserError: the configuration or the text cannot be used, the directory holds something else,
        every document was dropped, or the disk is full. The same call goes on where one ended.
    """
    silence()
    config.validate()
    stages = [choose(STAGES, name, "stages") for name in names_in(config.stages)]
    choose(EXECUTORS, config.cluster.executor, "cluster.executor")
    sources = split_sources(config.path, config.tasks)
    identity = _identity(config)
    if output.exists() and any(output.iterdir()):
        return _existing(output, identity)
    aside = output.with_name(f"{output.name}.partial")
    if (aside / "manifest.json").is_file() and not (aside / "work").exists():
        refuse_links(aside)
        manifest = _existing(aside, identity)
        _put_in_place(aside, output)
        return manifest
    try:
        with names_path(aside):
            for _ in range(_ATTEMPTS):
                try:
                    plan = _begin(config, aside, identity, sources, stages, language_model)
                    if not _execute(plan, workers, on_progress):
                        return None
                    return _finish(config, identity, aside, output, write_page)
                except Damaged as damage:
                    print(f"{damage}; the corpus is prepared anew", file=sys.stderr, flush=True)
                    shutil.rmtree(aside)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(
            f"the disk of {aside} is full; free some space and run the same command, which goes "
            f"on, or delete {aside}"
        ) from error
    raise UserError(
        f"files in {aside} changed {counted(_ATTEMPTS, 'time')} while they were used; give another "
        "disk with --output, or look for what writes there"
    )


def _begin(
    config: PreparationConfig,
    aside: Path,
    identity: dict[str, Any],
    sources: list[list[Source]],
    stages: list[AddStage],
    language_model: LanguageModel | None,
) -> Plan:
    """Returns the phases; their directory is made, or found as the same configuration left it.

    Raises:
      UserError: it holds something else.
      Damaged: files of earlier phases changed.
    """
    _start(aside, identity)
    work = aside / "work"
    if damage := noted_damage(work):
        raise Damaged(damage)
    states, path = _states(config).encode(), work / "inputs.sha256"
    if path.exists() and path.read_bytes() != states:
        raise Damaged(f"what {aside} is made of was written since it was begun")
    write_bytes(path, states)
    with SealedWriter(work, work / "sources.json") as file:
        file.write(json.dumps(sources).encode())
    read = ReadSources(work / "sources.json", config, Dropped(work, "blank"))
    plan = Plan(config, work, [read], language_model)
    for name, add_stage in zip(names_in(config.stages), stages, strict=True):
        add_stage(plan)
        plan.count(name)
    plan.end("corpus", WriteCorpus(work, aside / "documents"))
    if config.tokenizer:
        add_tokens(plan, aside)
    return plan


def _execute(plan: Plan, workers: int, on_progress: OnProgress) -> bool:
    """Returns whether all tasks are done; jobs of a cluster may still run."""
    cluster = plan.config.cluster
    execute = choose(EXECUTORS, cluster.executor, "cluster.executor")
    return execute(plan.phases, plan.directory / "logs", workers, cluster, on_progress)


def _identity(config: PreparationConfig) -> dict[str, Any]:
    """Returns what decides the output: the configuration and the files that it names."""
    configuration = dataclasses.asdict(config)
    del configuration["cluster"]
    inputs = {name: _fingerprint(*given) for name, given in _inputs(config).items()}
    if config.tokenizer:
        inputs["tokenizer"] = tokenizers.identity(tokenizer_of(config.tokenizer))
    else:  # corpora made before there were token files are found again
        del configuration["tokenizer"], configuration["validation_fraction"]
    return {"configuration": configuration, "inputs": inputs}


def _inputs(config: PreparationConfig) -> dict[str, tuple[str, str]]:
    """Returns what is read: by name the pattern, and the field that gives it."""
    found = {"path": (config.path, "path")}
    if "perplexity" in names_in(config.stages):
        found["reference"] = config.perplexity.reference, "perplexity.reference"
    if "decontamination" in names_in(config.stages):
        for path in names_in(config.decontamination.paths):
            found[path] = path, "decontamination.paths"
    return found


def _states(config: PreparationConfig) -> str:
    """Returns a digest of what changes when an input is written, if it keeps its size and time."""
    found = []
    for given in _inputs(config).values():
        for path in find_files(*given):
            state = path.stat()
            found.append((str(path.absolute()), state.st_ino, state.st_ctime_ns))
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _fingerprint(pattern: str, field: str) -> dict[str, Any]:
    found = [(str(path), path.stat()) for path in find_files(pattern, field)]
    listing = [(name, status.st_size, status.st_mtime_ns) for name, status in found]
    return {
        "files": len(found),
        "bytes": sum(status.st_size for _, status in found),
        "listing_sha256": hashlib.sha256(json.dumps(listing).encode()).hexdigest(),
    }


def _existing(output: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Returns the manifest of a finished corpus.

    Raises:
      UserError: the directory holds something else.
    """
    path = output / "manifest.json"
    if not path.is_file():
        raise UserError(f"{output} is there and holds no prepared corpus; give another directory")
    manifest = read_object(path)
    _check_same(output, {name: manifest.get(name) for name in identity}, identity)
    return manifest


def _start(aside: Path, identity: dict[str, Any]) -> None:
    """Makes the directory of the work, or finds it as the same configuration left it."""
    refuse_links(aside)
    path = aside / "identity.json"
    if path.exists():
        _check_same(aside, read_object(path), identity)
    elif aside.exists() and any(aside.iterdir()):
        raise UserError(f"{aside} is there and was not made by a preparation; move it away")
    (aside / "work").mkdir(parents=True, exist_ok=True)
    (aside / "documents").mkdir(exist_ok=True)
    write_bytes(path, json.dumps(identity).encode())


def _check_same(directory: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    if found == expected:
        return
    before, now = found.get("configuration"), expected["configuration"]
    before = before if isinstance(before, dict) else {}
    changed = [name for name in now if before.get(name) != now[name]]
    what = ", ".join(changed) if changed else "the files of path"
    raise UserError(
        f"{directory} was made by another configuration ({what} differ); give another --output or "
        "delete it"
    )


def _finish(
    config: PreparationConfig,
    identity: dict[str, Any],
    aside: Path,
    output: Path,
    write_page: WritePage,
) -> dict[str, Any]:
    """Writes what describes the corpus and puts it in its place."""
    checked_files(aside / "work", aside / "documents", "*")
    found = statistics.collect(config, aside / "work")
    files = read_tallies(aside / "work", "corpus")
    if not files:
        shutil.rmtree(aside)
        raise UserError(_nothing_left(config, found))
    manifest = {
        "files": files,
        "total": {
            key: sum(file[key] for file in files) for key in ("documents", "characters", "bytes")
        },
        **(token_manifest(aside) if config.tokenizer else {}),
        **identity,
        "versions": {name: version(name) for name in _LIBRARIES},
    }
    write_bytes(aside / "manifest.json", json.dumps(manifest, indent=2).encode())
    write_bytes(aside / "statistics.json", json.dumps(found, indent=2, ensure_ascii=False).encode())
    write_page(found, manifest, aside / "report.html")
    os.replace(aside / "work", aside / _FINISHED)
    _put_in_place(aside, output)
    return manifest


def _put_in_place(aside: Path, output: Path) -> None:
    """Renames a complete corpus, also where an earlier call was killed on its way."""
    shutil.rmtree(aside / _FINISHED, ignore_errors=True)
    (aside / "identity.json").unlink(missing_ok=True)
    os.replace(aside, output)


def _nothing_left(config: PreparationConfig, found: dict[str, Any]) -> str:
    read = found["stages"][0]["documents"]
    if not read:
        return f"path {config.path!r} holds no text"
    rules = sorted(found["rules"], key=lambda rule: -rule["documents"])
    dropped = ", ".join(f"{rule['documents']:,} by {rule['rule']}" for rule in rules[:5])
    return (
        f"every document was dropped, of {read:,}: {dropped}; loosen these rules or leave them out "
        "of stages"
    )
