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
from lm_jax.data.preparation.documents import Dropped, write_whole
from lm_jax.data.preparation.language import pieces_of
from lm_jax.data.preparation.plan import LanguageModel, Plan, Scorer
from lm_jax.data.text_stream import stream_texts
from lm_jax.errors import UserError

_BATCH = 64  # documents that are scored together


class FitLanguageModel(PipelineStep):
    """Fits the language model to the reference text."""

    type, name = "FIT", "language model"

    def __init__(self, folder: str, config: PreparationConfig, model: LanguageModel):
        super().__init__()
        self.folder, self.config, self.fit = Path(folder), config, model.fit

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes the model."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.config.perplexity
        texts = stream_texts(settings.reference, settings.text_feature, origin="reference")
        self.fit([text for text, _ in texts if text.strip()], self.folder)


class ScoreDocuments(PipelineStep):
    """Writes the bits per character of each document of a task."""

    type, name = "SCORE", "perplexity"

    def __init__(self, folder: str, scores: str, characters: int, model: LanguageModel):
        super().__init__()
        self.folder, self.scores = Path(folder), Path(scores)
        self.characters, self.load = characters, model.load

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Writes the scores of all documents."""
        score = _loaded(self.load, self.folder)
        texts = (pieces_of(document.text, self.characters) for document in data)
        found: list[float] = []
        while batch := list(islice(texts, _BATCH)):
            found += score(batch)
        self.scores.mkdir(parents=True, exist_ok=True)
        save_array(self.scores / f"{rank:05d}.npy", np.array(found, np.float32))


@functools.lru_cache(maxsize=1)
def _loaded(load: Callable[[Path], Scorer], folder: Path) -> Scorer:
    """Returns the model, which a process loads and compiles once."""
    return load(folder)


class FindLimit(PipelineStep):
    """Writes the score that a share of all documents does not exceed."""

    type, name = "LIMIT", "perplexity"

    def __init__(self, scores: str, keep: float):
        super().__init__()
        self.scores, self.keep = Path(scores), keep

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Reads all scores."""
        scores = np.concatenate([np.load(path) for path in sorted(self.scores.glob("*.npy"))])
        limit = np.quantile(scores, self.keep, method="lower") if len(scores) else 0.0
        write_whole(self.scores / "limit", str(float(limit)).encode())


class PerplexityFilter(PipelineStep):
    """Drops documents above the limit."""

    type, name = "FILTER", "perplexity"

    def __init__(self, scores: str, dropped: Dropped):
        super().__init__()
        self.scores, self.dropped = Path(scores), dropped

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Yields the documents that stay."""
        limit = float((self.scores / "limit").read_text())
        scores = np.load(self.scores / f"{rank:05d}.npy")
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
    folder, scores = plan.folder("language_model"), plan.folder("perplexities")
    plan.before_all("language_model", [FitLanguageModel(folder, plan.config, plan.language_model)])
    score = ScoreDocuments(folder, scores, settings.characters, plan.language_model)
    plan.phase("perplexities", [*plan.stored(), score])
    plan.phase("perplexity_limit", [FindLimit(scores, settings.keep)], tasks=1)
    plan.add(PerplexityFilter(scores, plan.dropped("perplexity")))
