"""Runs of lines that stand in several documents: licences, headers, navigation."""

from typing import Any

from datatrove.data import Document
from datatrove.pipeline.dedup.sentence_dedup import (
    SentDedupConfig,
    SentenceDedupFilter,
    SentenceDedupSignature,
    SentenceFindDedups,
)

from lm_jax.data.preparation.plan import Plan
from lm_jax.data.preparation.sealed_files import SealedFolder
from lm_jax.data.preparation.words import WORDS

CUT = "cut, the rest stays"
_MOST_LINES = 2**16 - 1  # datatrove keeps the number of a line in 16 bits


class LineSignatures(SentenceDedupSignature):
    """Signatures of runs of lines, compared without surrounding white space.

    Runs of few characters have none, so headings and blank lines stay.
    """

    def __init__(self, folder: SealedFolder, plan: Plan, config: SentDedupConfig):
        super().__init__(folder, plan.finders, config, language=WORDS[plan.config.language])
        self.minimum_characters = plan.config.repeated_lines.minimum_characters

    def get_hashes(self, doc: Document, doc_idx: int) -> list[Any]:
        """Returns (hash, document, line) of each run."""
        count = self.config.n_sentences
        lines = [line.strip() for line in doc.text.splitlines()[:_MOST_LINES]]
        runs = ("\n".join(lines[n : n + count]) for n in range(len(lines) - count + 1))
        return [
            (self.hash_fc(run), doc_idx, n)
            for n, run in enumerate(runs)
            if len(run) >= self.minimum_characters
        ]


class CutLines(SentenceDedupFilter):
    """Cuts runs of lines, and says of each document whether enough is left.

    datatrove hands its writer documents that stay, too, with the cut marked by >>> and <<<.
    """

    def remove_dup_sentences(self, doc: Document, du_lines: Any) -> tuple[str, str]:
        """Returns the rest of a document, and the text to be shown, from before the first cut."""
        rest, marked = super().remove_dup_sentences(doc, du_lines)
        is_left = len(self.tokenizer.word_tokenize(rest)) >= self.config.min_doc_words
        doc.metadata["filter_reason"] = CUT if is_left else "little left"
        doc.metadata["characters_cut"] = len(doc.text) - len(rest)
        return rest, marked[max(0, marked.find(">>>") - 200) :]

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Yields the documents that stay."""
        for document in super().run(data, rank, world_size):
            document.metadata.pop("filter_reason", None)
            document.metadata.pop("characters_cut", None)
            yield document


def add_repeated_lines(plan: Plan) -> None:
    """Cuts runs of lines that stand in an earlier document, or earlier in the same one."""
    threshold = plan.config.repeated_lines
    config = SentDedupConfig(
        n_sentences=threshold.lines,
        split_sentences=False,
        min_doc_words=threshold.minimum_words,
        min_num_sentences=0,
    )
    signatures, found = plan.folder("line_signatures"), plan.folder("repeated_lines")
    documents = plan.stored()
    plan.phase("line_signatures", [*documents, LineSignatures(signatures, plan, config)])
    plan.phase(
        "repeated_lines",
        [SentenceFindDedups(signatures, found, config=config, lines_to_buffer=1000)],
        tasks=plan.finders,
    )
    plan.add(
        CutLines(
            found,
            config,
            plan.dropped("repeated_lines"),
            language=WORDS[plan.config.language],
        )
    )
