r"""Prepares a corpus: filters, removes duplicates, redacts, and reports what was removed.

  python -m launch.prepare_data --config=configs/data/english.py --output=corpora/english \
      --config.path='texts/*.jsonl' --workers=2
  python -m launch.train --config=configs/quickstart.py --workdir=runs/english \
      --config.data.source=files --config.data.path=corpora/english/documents

The output directory receives documents/*.jsonl.gz with the fields text, id and source;
manifest.json with the SHA-256 and the counts of each file, the configuration and the versions;
statistics.json and report.html, which show what each rule removed; with --config.tokenizer, such as
bpe:32000 or huggingface:DIR, tokens/ for data.source=tokens. Its bytes do not depend on --workers.
Until the end everything is in OUTPUT.partial; the same command goes on after a crash.

Needs `pip install -e '.[prepare]'`. The last line of the output is JSON with the totals.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import experiment_flags, program
from lm_jax.errors import UserError

if TYPE_CHECKING:
    from lm_jax.data.preparation.config import PreparationConfig


def _load(name: str) -> "PreparationConfig":
    from lm_jax.config.config_file import call_config_file
    from lm_jax.data.preparation.config import PreparationConfig

    result = call_config_file(name, "get_preparation", "configs/data/*.py")
    if not isinstance(result, PreparationConfig):
        raise UserError(
            f"get_preparation() of --config={name} returned {type(result).__name__}; expected a "
            "PreparationConfig, as in configs/data/english.py"
        )
    return result


def _finish(config: "PreparationConfig") -> "PreparationConfig":
    config.validate()
    return config


CONFIG = experiment_flags.define(
    kind=experiment_flags.Kind("preparation", "configs/data/*.py", _load, _finish)
)
OUTPUT = flags.DEFINE_string("output", None, "The directory of the corpus.", required=True)
WORKERS = flags.DEFINE_integer(
    "workers", 1, "Tasks that run at the same time: processes, or jobs of a cluster.", lower_bound=1
)


def main() -> dict[str, Any]:
    """Prepares the corpus, prints what is left after each stage, and returns the totals."""
    output = program.output_directory(OUTPUT.value)
    assert output is not None
    config = experiment_flags.configuration()
    try:
        from lm_jax.data.preparation.prepare import prepare
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; pip install -e '.[prepare]'") from None
    from lm_jax.data.preparation.plan import LanguageModel
    from lm_jax.json_values import read_object
    from lm_jax.progress import progress
    from lm_jax.reports.preparation_page import stage_table, write_page
    from lm_jax.runs import reference_model

    started = time.monotonic()
    with progress() as show:
        manifest = prepare(
            config,
            output,
            WORKERS.value,
            write_page,
            show,
            LanguageModel(reference_model.fit, reference_model.load),
        )
    if manifest is None:
        program.log("jobs are submitted; when they have ended, the same command finishes")
        return {"output": str(output), "submitted": True}
    program.log_table(stage_table(read_object(output / "statistics.json")), "<>>>")
    program.log(f"page: {output / 'report.html'}")
    if config.tokenizer:
        program.log(f"to train on the tokens: {_flags(output, manifest['tokens'])}")
    seconds = time.monotonic() - started
    return {"output": str(output), **manifest["total"], "seconds": round(seconds, 1)}


def _flags(output: Path, tokens: dict[str, Any]) -> str:
    flags = {"source": "tokens", "path": output / "tokens" / "train"}
    if tokens["total"]["validation"]["documents"]:
        flags["validation_path"] = output / "tokens" / "validation"
    flags["tokenizer.path"] = output / "tokens"
    return " ".join(f"--config.data.{name}={value}" for name, value in flags.items())


if __name__ == "__main__":
    program.run(main)
