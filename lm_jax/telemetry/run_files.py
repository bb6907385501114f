"""What the files of a work directory hold, as far as they are read back.

A file may hold more. What is there has the type that stands here; a file that is read raises
UserError otherwise. A run of an earlier version may lack what came later.
"""

from pathlib import Path
from typing import Any, NotRequired, Required, TypedDict

from lm_jax.errors import UserError
from lm_jax.json_values import read_as, shown

Number = float | None  # null where it was infinite or not a number


class Figures(TypedDict, total=False):
    """The measures of an evaluation; further ones are free."""

    cross_entropy: Number
    cross_entropy_standard_error: Number
    perplexity: Number
    perplexity_standard_error: Number
    bits_per_character: Number
    bits_per_character_standard_error: Number
    bits_per_byte: Number
    bits_per_byte_standard_error: Number
    bits_per_word: Number
    bits_per_word_standard_error: Number
    word_perplexity: Number
    word_perplexity_standard_error: Number
    accuracy: Number
    accuracy_standard_error: Number
    accuracy_of_majority_class: Number
    tokens: int
    pairs: int
    examples: int
    characters: Number
    bytes: Number
    words: Number
    documents: Number
    sources: "dict[str, Figures]"
    tasks: "dict[str, Figures]"


class Row(Figures, total=False):
    """A row of metrics.jsonl."""

    step: Required[int]
    kind: Required[str]  # train or evaluation
    loss: Number
    learning_rate: Number
    gradient_norm: Number
    seconds: Number
    skipped_updates: int


class Attempt(TypedDict, total=False):
    """A start of a run."""

    started: Required[float]  # seconds since 1970
    step: Required[int]  # that it went on from
    pid: int
    error: str  # why it failed


class Attempts(TypedDict):
    """`attempts.json`."""

    attempts: list[Attempt]


class Profile(TypedDict):
    """The traced steps of a run."""

    seconds: dict[str, float]
    steps: tuple[int, int]


SampleSize = TypedDict(  # noqa: UP013
    "SampleSize", {"documents": int, "of": int, "tokens": int, "of_tokens": int}
)


class Translation(TypedDict, total=False):
    """The scores of translations; further facts are free."""

    bleu: Number
    bleu_standard_error: Number
    bleu_signature: str
    bleu_remark: str
    chrf: Number
    chrf_standard_error: Number
    chrf_signature: str
    exact_match: Number
    exact_match_standard_error: Number
    sentences: int


class Results(TypedDict, total=False):
    """`evaluation.json`."""

    step: int
    parameters: int
    trained_parameters: int
    ended_early: str
    validation: Figures
    validation_before: Figures
    validation_sample: SampleSize
    test: dict[str, Any]
    translation: Translation
    baselines: dict[str, Number]
    timings: dict[str, Number]
    goodput: dict[str, float]
    profile: Profile
    packing: dict[str, Any]
    vmapped_runs: int
    fan: int


class SplitSize(TypedDict, total=False):
    """How large a split is; further counts are free."""

    tokens: int
    texts: int


class DataFacts(TypedDict, total=False):
    """`data.json`: what a data set says of itself."""

    summary: str
    imported_from: str
    sha256: str
    fingerprint: str
    sizes: dict[str, int]
    labels: list[str]
    sources: dict[str, int]
    validation_sources: dict[str, int]
    train: SplitSize


class Environment(TypedDict, total=False):
    """`environment.json`."""

    commit: str | None
    devices: list[str]
    versions: dict[str, str | None]


class Branch(TypedDict, total=False):
    """`branch.json`: what a run forked from."""

    run: str | None
    skipped_rows: int | None
    step: int | None
    rows: int | None
    changes: list[str] | None
    environments: list[Environment]


class Inherited(TypedDict, total=False):
    """`inherited.json`: what a fine-tuned run took over, by the paths of its arrays."""

    taken: dict[str, list[int]]
    new: dict[str, list[int]]
    other_shape: dict[str, tuple[list[int], list[int]]]
    unused: dict[str, list[int]]


class ConfigParts(TypedDict, total=False):
    """`config.json` as pages and comparisons read it, also where its family is not here."""

    model: dict[str, Any]
    data: dict[str, Any]
    fine_tuning: dict[str, Any]
    training: dict[str, Any]


class ByDocument(TypedDict, total=False):
    """`by_document_SPLIT.json`."""

    step: Required[int]
    nats: list[Number]
    correct: list[float]
    targets: list[float]
    characters: list[float] | None
    documents: list[int] | None


class ByPosition(TypedDict):
    """`by_position_SPLIT.json`."""

    step: int
    stride: int
    context_length: int
    windows: NotRequired[str]  # earlier versions knew no others than documents
    nats_by_position: list[Number]
    tokens_by_position: list[int]


# The correlation of vectors with judgements of one file, and the analogies that they answer.
Similarity = TypedDict(  # noqa: UP013
    "Similarity", {"spearman": float, "pairs": int, "of": int}
)
Analogies = TypedDict(  # noqa: UP013
    "Analogies", {"right": int, "asked": int, "of": int}
)


class WordVectorScores(TypedDict, total=False):
    """`word_vectors.json`."""

    step: Required[int]
    similarities: dict[str, Similarity]
    analogies: dict[str, Analogies]


def read_word_vectors(path: Path) -> WordVectorScores:
    """Returns `word_vectors.json`.

    Raises:
      UserError: it is damaged.
      OSError: it cannot be read.
    """
    found = read_as(path, WordVectorScores)
    for name, scores in found.get("similarities", {}).items():
        if not -1 <= scores["spearman"] <= 1:
            raise UserError(
                f"{path}: the correlation with {shown(name)} is {scores['spearman']:g}; expected "
                "-1 to 1; restore it"
            )
    for name, counts in found.get("analogies", {}).items():
        if not 0 <= counts["right"] <= counts["asked"]:
            raise UserError(
                f"{path}: {counts['right']} of {counts['asked']} analogies of {shown(name)} are "
                "right; expected no more than were asked; restore it"
            )
    return found


def read_data_facts(workdir: Path) -> DataFacts:
    """Returns `data.json`. Raises UserError if it is damaged, OSError if it cannot be read."""
    return read_as(workdir / "data.json", DataFacts)
