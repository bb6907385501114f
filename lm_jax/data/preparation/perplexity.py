"""Documents that a language model of clean text finds improbable (CCNet: Wenzek et al., 2020)."""

import functools
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from lm_jax.data.arrays import save_array
from lm_jax.data.preparation.config import PreparationConfig
from lm_jax.data.preparation.documents import Dropped
from lm_jax.data.preparation.language import pieces_of
from lm_jax.data.preparation.plan import LanguageModel, Plan, Scorer
from lm_jax.data.preparation.sealed_files import SealedWriter, check, checked_files, seal
from lm_jax.data.text_stream import stream_texts
from lm_jax.errors import UserError

_MODEL, _SCORES = "language_model", "perplexities"  # folders of the work
_BATCH = 64  # documents that are scored together


class FitLanguageModel(PipelineStep):
    """Fits the language model to the reference text."""

    type, name = "FIT", "language model"

    def __init__(self, work: Path, config: PreparationConfig, model: LanguageModel):
        super().__init__()
        self.work, self.config, self.fit = work, config, model.fit

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes the model."""
        folder = self.work / _MODEL
        folder.mkdir(parents=True, exist_ok=True)
        settings = self.config.perplexity
        texts = stream_texts(settings.reference, settings.text_feature, origin="reference")
        self.fit([text for text, _ in texts if text.strip()], folder)
        seal(self.work, *folder.iterdir())


class ScoreDocuments(PipelineStep):
    """Writes the bits per character of each document of a task."""

    type, name = "SCORE", "perplexity"

    def __init__(self, work: Path, characters: int, model: LanguageModel):
        super().__init__()
        self.work, self.characters, self.load = work, characters, model.load

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Writes the scores of all documents."""
        score = _loaded(self.load, self.work)
        texts = (pieces_of(document.text, self.characters) for document in data)
        found: list[float] = []
        while batch := list(islice(texts, _BATCH)):
            found += score(batch)
        path = self.work / _SCORES / f"{rank:05d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_array(path, np.array(found, np.float32))
        seal(self.work, path)


@functools.lru_cache(maxsize=1)
def _loaded(load: Callable[[Path], Scorer], work: Path) -> Scorer:
    """Returns the model, which a process loads and compiles once."""
    checked_files(work, work / _MODEL, "*")
    return load(work / _MODEL)


class FindLimit(PipelineStep):
    """Writes the score that a share of all documents does not exceed."""

    type, name = "LIMIT", "perplexity"

    def __init__(self, work: Path, keep: float):
        super().__init__()
        self.work, self.keep = work, keep

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Reads all scores."""
        paths = checked_files(self.work, self.work / _SCORES, "*.npy")
        scores = np.concatenate([np.load(path) for path in paths])
        limit = np.quantile(scores, self.keep, method="lower") if len(scores) else 0.0
        with SealedWriter(self.work, self.work / _SCORES / "limit") as file:
            file.write(str(float(limit)).encode())


class PerplexityFilter(PipelineStep):
    """Drops documents above the limit."""

    type, name = "FILTER", "perplexity"

    def __init__(self, work: Path, dropped: Dropped):
        super().__init__()
        self.work, self.dropped = work, dropped

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Yields the documents that stay."""
        limit = float(check(self.work, self.work / _SCORES / "limit").read_text())
        scores = np.load(check(self.work, self.work / _SCORES / f"{rank:05d}.npy"))
        with self.dropped as dropped:
            for document, score in zip(data, scores, strict=True):
                if score <= limit:
                    yield document
                else:
                    document.metadata["bits_per_character"] = round(float(score), 3)
                    dropped.write(document, rank)


def add_perplexity(plan: Plan) -> None:
    """Drops the documents that are least like the reference text.

    Raises:
      UserError: no language model was handed in.
    """
    settings = plan.config.perplexity
    if plan.language_model is None:
        raise UserError("stages has perplexity, but no language model was given to prepare()")
    work, model = plan.directory, plan.language_model
    plan.before_all("language_model", [FitLanguageModel(work, plan.config, model)])
    score = ScoreDocuments(work, settings.characters, model)
    plan.phase("perplexities", [*plan.stored(), score])
    plan.phase("perplexity_limit", [FindLimit(work, settings.keep)], tasks=1)
    plan.add(PerplexityFilter(work, plan.dropped("perplexity")))
