"""The flags of launch.evaluate that measure any texts, with one run or two."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import program, weights_flag
from lm_jax.config.parts import EvaluationConfig
from lm_jax.errors import UserError

if TYPE_CHECKING:
    from lm_jax.evaluation.paired_difference import PairedDifference
    from lm_jax.runs.text_evaluation import TextModel, TextSums

AGAINST = flags.DEFINE_string(
    "against", None, "The work directory of a run that is measured on the same --text."
)
_PARTIAL = "texts.kept.jsonl"


def refuse_unused() -> None:
    """Raises UserError for --against without texts."""
    if AGAINST.value:
        raise UserError(
            "--against compares two runs on other texts: give --text=FILES, or compare runs on "
            "their own validation split with launch.compare"
        )


def measure(
    workdir: str,
    checkpoint: str,
    patterns: Sequence[str],
    eval_config: EvaluationConfig,
    output: Path | None,
) -> dict[str, Any]:
    """Prints the figures of each set of texts, and returns them.

    Args:
      workdir: of the run that --weights is about; the other one has those that were trained.
      output: a directory for documents.csv and texts.json.
    """
    from lm_jax.data.readers import texts_in
    from lm_jax.parallel import processes
    from lm_jax.progress import progress
    from lm_jax.runs import text_evaluation
    from lm_jax.runs.evaluate import documents_with_text, text_model
    from lm_jax.runs.trained_run import load
    from lm_jax.telemetry.json_files import write_json

    texts, names = {}, {}
    for pattern in patterns:
        found = texts_in(pattern, origin="--text")
        numbers = documents_with_text(found.train, eval_config)
        texts[pattern] = [found.train[number] for number in numbers]
        names[pattern] = [(found.names or ())[number] for number in numbers]
    runs = [weights_flag.load(workdir, checkpoint)]
    if AGAINST.value:
        runs.append(load(Path(AGAINST.value), log=program.log))
    models = [text_model(run, eval_config) for run in runs]
    if len({model.name for model in models}) < len(models):
        pairs = zip(models, runs, strict=True)
        models = [model._replace(name=str(run.workdir)) for model, run in pairs]
    identity = {
        "runs": [[str(run.workdir.resolve()), run.step, run.weights] for run in runs],
        "evaluation": vars(eval_config),
        "texts": text_evaluation.fingerprint(texts),
    }
    kept = None
    if output and not processes.several():
        kept = text_evaluation.Kept(output / _PARTIAL, identity)
    sums = {}
    with progress() as show:
        for model in models:
            sums[model.name] = {
                name: text_evaluation.sum_texts(model, name, documents, eval_config, kept, show)
                for name, documents in texts.items()
            }
    results = _report(models, sums, eval_config)
    if output and processes.is_first():
        text_evaluation.write_documents(output / "documents.csv", names, sums)
        write_json(output / "texts.json", results)
        program.log(f"documents: {output / 'documents.csv'}")
    if kept:
        kept.remove()
    return {"workdir": workdir, "step": runs[0].step, **results}


def _report(
    models: Sequence["TextModel"],
    sums: Mapping[str, Mapping[str, "TextSums"]],
    eval_config: EvaluationConfig,
) -> dict[str, Any]:
    """Prints the tables; returns the figures of each set, and the other run's and differences."""
    from lm_jax.runs.text_evaluation import difference_of, measures_of_texts

    first, *others = models
    results: dict[str, Any] = {}
    figures = {
        model.name: {
            name: measures_of_texts(model, found, eval_config)
            for name, found in sums[model.name].items()
        }
        for model in models
    }
    for model in models:
        if others:
            program.log(f"\n{model.name}")
        _print_figures(figures[model.name])
    results["texts"] = figures[first.name]
    for other in others:
        results["against"] = {"workdir": AGAINST.value, "texts": figures[other.name]}
        if not all(model.tokenizer.lossless for model in models):
            program.log("no differences: a tokenizer loses text, so bits do not compare")
            continue
        differences = {
            name: difference_of(sums[first.name][name], sums[other.name][name])
            for name in sums[first.name]
        }
        _print_differences(differences, first.name, other.name)
        results["differences"] = {n: d and d._asdict() for n, d in differences.items()}
    return results


def _print_figures(figures: Mapping[str, Mapping[str, Any]]) -> None:
    from lm_jax.reports.numbers import with_error

    rows = [["text", "documents", "tokens", "nats per token", "perplexity", "bits per character"]]
    harness = next(iter(figures.values())).get("harness", {})
    rows[0] += [name.replace("_", " ") for name in harness]
    for name, found in figures.items():
        loss, error = found["cross_entropy"], found["cross_entropy_standard_error"]
        bits = found.get("bits_per_character")
        rows.append(
            [
                name,
                f"{found['documents']:,}" if "documents" in found else "-",
                f"{found['tokens']:,}",
                with_error(loss, error),
                f"{found['perplexity']:.2f}",
                "-" if bits is None else f"{bits:.4f}",
            ]
        )
        rows[-1] += [f"{value:.4f}" for value in found.get("harness", {}).values()]
    program.log_table(rows, "<" + ">" * (len(rows[0]) - 1))


def _print_differences(
    differences: Mapping[str, "PairedDifference | None"], first: str, second: str
) -> None:
    from lm_jax.reports.numbers import decimals_of

    rows = [["text", f"bits per character, {first} minus {second}", "95% interval", "p-value"]]
    for name, found in differences.items():
        if found is None:
            program.log(f"{name}: no interval, which needs two documents")
            continue
        places = decimals_of(found.standard_error) if found.standard_error else 4
        interval = f"{found.low:+.{places}f} to {found.high:+.{places}f}"
        p_value = f"{found.p_value:.2g}" if found.p_value >= 0.001 else "below 0.001"
        rows.append([name, f"{found.difference:+.{places}f}", interval, p_value])
    if len(rows) > 1:
        program.log_table(rows, "<>>>")
