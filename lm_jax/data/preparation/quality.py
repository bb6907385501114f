"""Rules of quality of C4 and FineWeb, as datatrove sets them.

datatrove's filters look at each line with all of their tests. Here the tests that a text cannot
fail are found first. Documents, reasons and the lines that are left are the same.
"""

import re

from datatrove.data import Document
from datatrove.pipeline.filters.c4_filters import (
    CITATION_REGEX,
    ELLIPSIS,
    END_PUNCTUATION,
    POLICY_SUBSTRINGS,
    C4QualityFilter,
)
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter

from lm_jax.data.preparation.gopher import Verdict, repeated_parts
from lm_jax.data.preparation.plan import Plan
from lm_jax.data.preparation.words import WORDS

_MARKED = ("lorem ipsum", "javascript", "{", *POLICY_SUBSTRINGS)
_WRAP = re.compile(r"\n(?<=[a-z,]\n)(?=[a-z])")


class C4Quality(C4QualityFilter):
    """Drops lines of few words or on cookies, and documents of few sentences."""

    def filter(self, doc: Document) -> Verdict:
        """Returns whether a document stays, or why not; its text loses lines."""
        has_citations, lowered = "[" in doc.text, doc.text.lower()
        # Where a citation is taken out, a phrase may come together.
        is_marked = has_citations or any(phrase in lowered for phrase in _MARKED)
        kept: list[str] = []
        sentences = 0
        for line in doc.text.splitlines():
            line = line.strip()
            num_words = len(line.split()) if self.min_words_per_line > 0 else 0
            if len(line) > self.max_word_length and self._has_long_word(line):
                continue
            if has_citations:
                line = CITATION_REGEX.sub("", line)
            if self.filter_no_terminal_punct and not _ends_sentence(line):
                continue
            if num_words < self.min_words_per_line:
                continue
            if is_marked:
                lowered = line.lower()
                if "lorem ipsum" in lowered:
                    return False, "lorem_ipsum"
                if "javascript" in lowered:
                    continue
                if self.filter_curly_bracket and "{" in line:
                    return False, "curly_bracket"
                if any(phrase in lowered for phrase in POLICY_SUBSTRINGS):
                    continue
            if sentences < self.min_num_sentences:
                # datatrove counts one sentence in a line that has none.
                sentences += max(1, len(self.language.span_tokenize(line)))
            kept.append(line)
        if sentences < self.min_num_sentences:
            return False, "too_few_sentences"
        doc.text = "\n".join(kept).strip()
        return True

    def _has_long_word(self, line: str) -> bool:
        return any(len(word) > self.max_word_length for word in line.split())


def _ends_sentence(line: str) -> bool:
    return line.endswith(END_PUNCTUATION) and not line.endswith(ELLIPSIS)


def add_c4_quality(plan: Plan) -> None:
    """Drops lines of few words or on cookies, and documents of few sentences."""
    threshold = plan.config.c4_quality
    plan.add(
        C4Quality(
            min_num_sentences=threshold.minimum_sentences,
            filter_no_terminal_punct=threshold.lines_end_in_punctuation,
            min_words_per_line=threshold.minimum_words_per_line or -1,
            filter_curly_bracket=threshold.drop_curly_brackets,
            language=WORDS[plan.config.language],
            exclusion_writer=plan.dropped("c4_quality"),
        )
    )


class FineWebQuality(FineWebQualityFilter):
    """Drops documents of short, unpunctuated or repeated lines."""

    def filter(self, doc: Document) -> Verdict:
        """Returns whether a document stays, or why not."""
        text = doc.text
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        if not lines:
            return False, "empty"
        ends = frozenset(self.stop_chars)
        if sum(line[-1] in ends for line in lines) / len(lines) < self.line_punct_thr:
            return False, "line_punct_ratio"
        short = sum(len(line) <= self.short_line_length for line in lines)
        if short / len(lines) > self.short_line_threshold:
            return False, "short_line_ratio"
        breaks = text.count("\n")
        _, repeated = repeated_parts(lines)
        if repeated / (len(text) - breaks) > self.char_duplicates_ratio:
            return False, "char_dup_ratio"
        if breaks / len(self.language.word_tokenize(text)) > self.new_line_ratio:
            return False, "list_ratio"
        return True


class UnwrappedFineWebFilter(FineWebQuality):
    """Applies FineWeb's rules to paragraphs: lines of wrapped text end anywhere in a sentence."""

    def filter(self, doc: Document) -> Verdict:
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
