"""Documents that share a long n-gram with an evaluation set (Brown et al., 2020, appendix C)."""

from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.utils.hashing import create_hash_func
from datatrove.utils.text import TextNormConfig, ngrams, simplify_text

from lm_jax.data.preparation.config import PreparationConfig, names_in
from lm_jax.data.preparation.plan import Plan
from lm_jax.data.preparation.sealed_files import SealedFolder
from lm_jax.data.preparation.words import WORDS
from lm_jax.data.text_stream import stream_texts
from lm_jax.errors import UserError


class IndexEvaluationSets(PipelineStep):
    """Writes the hashes of all n-grams of each evaluation set.

    datatrove's own step for this takes the sets of lighteval only, and needs it.
    """

    type, name = "INDEX", "evaluation sets"

    def __init__(
        self, folder: SealedFolder, config: PreparationConfig, decontamination: NGramsDecontConfig
    ):
        super().__init__()
        self.folder, self.config, self.decontamination = folder, config, decontamination

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Writes a file for each set.

        Raises:
          UserError: no text of a set is long enough for an n-gram.
        """
        field, size = self.config.decontamination.text_feature, self.decontamination.n_grams
        hashed = create_hash_func(self.decontamination.hash_config)
        words = WORDS[self.config.language]
        for number, path in enumerate(names_in(self.config.decontamination.paths)):
            found: set[int] = set()
            for text, _ in stream_texts(path, field, origin="decontamination.paths"):
                simple = simplify_text(text, self.decontamination.norm_config)
                found |= {hashed(" ".join(n)) for n in ngrams(words.word_tokenize(simple), size)}
            if not found:
                raise UserError(
                    f"decontamination.paths: no text of {path} has {size} words, which "
                    "decontamination.words asks for"
                )
            name = f"{number}_{Path(path).stem.replace('*', '')}.index.hashes"
            with self.folder.open(name, "wb") as file:
                file.write(np.array(sorted(found), np.uint64).tobytes())


def add_decontamination(plan: Plan) -> None:
    """Drops documents with an n-gram of an evaluation set; case and punctuation do not count."""
    config = NGramsDecontConfig(
        n_grams=plan.config.decontamination.words,
        norm_config=TextNormConfig(norm_unicode_diacritics=False),
    )
    folder = plan.folder("evaluation_sets")
    plan.before_all("evaluation_sets", [IndexEvaluationSets(folder, plan.config, config)])
    plan.add(
        NGramsDecontFilter(
            folder,
            config,
            plan.dropped("decontamination"),
            language=WORDS[plan.config.language],
        )
    )
