"""Rules of quality: datatrove's of Gopher, C4 and FineWeb, and ours for Japanese."""

import re

from datatrove.data import Document
from datatrove.pipeline.filters.c4_filters import C4QualityFilter
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter

from lm_jax.data.preparation.plan import Plan
from lm_jax.data.preparation.words import WORDS


def add_gopher_repetition(plan: Plan) -> None:
    """Drops documents that repeat lines, paragraphs or n-grams (Gopher, table A1)."""
    plan.add(
        GopherRepetitionFilter(
            language=WORDS[plan.config.language], exclusion_writer=plan.dropped("gopher_repetition")
        )
    )


def add_gopher_quality(plan: Plan) -> None:
    """Drops documents by their numbers of words, symbols, bullets and stop words."""
    threshold = plan.config.gopher_quality
    plan.add(
        GopherQualityFilter(
            min_doc_words=threshold.minimum_words,
            max_doc_words=threshold.maximum_words,
            min_stop_words=threshold.minimum_stop_words,
            language=WORDS[plan.config.language],
            exclusion_writer=plan.dropped("gopher_quality"),
        )
    )


def add_c4_quality(plan: Plan) -> None:
    """Drops lines of few words or on cookies, and documents of few sentences."""
    threshold = plan.config.c4_quality
    plan.add(
        C4QualityFilter(
            min_num_sentences=threshold.minimum_sentences,
            filter_no_terminal_punct=threshold.lines_end_in_punctuation,
            min_words_per_line=threshold.minimum_words_per_line or -1,
            filter_curly_bracket=threshold.drop_curly_brackets,
            language=WORDS[plan.config.language],
            exclusion_writer=plan.dropped("c4_quality"),
        )
    )


_WRAP = re.compile(r"(?<=[a-z,])\n(?=[a-z])")


class UnwrappedFineWebFilter(FineWebQualityFilter):
    """Applies FineWeb's rules to paragraphs: lines of wrapped text end anywhere in a sentence."""

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Returns whether a document stays, or why not."""
        return super().filter(Document(_WRAP.sub(" ", doc.text), doc.id))


def add_fineweb_quality(plan: Plan) -> None:
    """Drops documents of short, unpunctuated or repeated lines."""
    threshold = plan.config.fineweb_quality
    plan.add(
        UnwrappedFineWebFilter(
            line_punct_thr=threshold.punctuated_lines,
            short_line_thr=threshold.short_lines,
            char_duplicates_ratio=threshold.repeated_characters,
            language=WORDS[plan.config.language],
            exclusion_writer=plan.dropped("fineweb_quality"),
        )
    )
