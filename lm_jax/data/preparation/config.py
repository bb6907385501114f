"""The configuration of a preparation: what is read, the stages in their order, their thresholds."""

import dataclasses

from lm_jax.data.utf8 import INVALID_UTF8
from lm_jax.errors import UserError
from lm_jax.fields import described, validate_fields

LANGUAGES = {"en": "English", "ja": "Japanese"}
REDACTIONS = {
    "key": "private keys (PEM), tokens of known services, JSON web tokens",
    "email": "e-mail addresses",
    "card": "card numbers with a valid check digit",
    "ip": "public IP addresses",
    "phone": "phone numbers",
}


def names_in(text: str) -> list[str]:
    """Returns the names of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


@dataclasses.dataclass
class LanguageConfig:
    """Language identification; py3langid carries its model."""

    minimum_probability: float = described(
        0.65,
        "Drop documents that are less probably in `language`; 0.65 as in FineWeb.",
        minimum=0,
        maximum=1,
    )
    characters: int = described(
        1000,
        "Characters of a document that are looked at: its beginning, middle and end.",
        minimum=20,
    )


@dataclasses.dataclass
class GopherQualityConfig:
    """Quality rules of Gopher (Rae et al., 2021, A.1.1); a word is what white space separates."""

    minimum_words: int = described(50, "Words of the shortest document.", minimum=0)
    maximum_words: int = described(100_000, "Words of the longest document.", minimum=1)
    minimum_stop_words: int = described(
        2, "Different words among the, be, to, of, and, that, have, with.", minimum=0, maximum=8
    )


@dataclasses.dataclass
class C4QualityConfig:
    """Quality rules of C4 (Raffel et al., 2020, section 2.2), as FineWeb sets them."""

    minimum_sentences: int = described(5, "Sentences of the shortest document.", minimum=0)
    lines_end_in_punctuation: bool = described(
        False, "Drop lines that do not end a sentence; FineWeb keeps them."
    )
    minimum_words_per_line: int = described(
        0, "Drop lines of fewer words; C4 and FineWeb have 3, which drops headings.", minimum=0
    )
    drop_curly_brackets: bool = described(True, "Drop documents with a `{`, as code has.")


@dataclasses.dataclass
class FineWebQualityConfig:
    """Quality rules of FineWeb (Penedo et al., 2024, section 3.6)."""

    punctuated_lines: float = described(
        0.12, "Smallest share of lines that end in punctuation.", minimum=0, maximum=1
    )
    short_lines: float = described(
        0.67, "Largest share of lines of at most 30 characters.", minimum=0, maximum=1
    )
    repeated_characters: float = described(
        0.01, "Largest share of characters in repeated lines.", minimum=0, maximum=1
    )


@dataclasses.dataclass
class JapaneseQualityConfig:
    """Quality rules of the Swallow corpus (Okazaki et al., 2024), which count characters."""

    minimum_characters: int = described(400, "Characters of the shortest document.", minimum=0)
    japanese: float = described(
        0.5, "Smallest share of kana, kanji and Japanese punctuation.", minimum=0, maximum=1
    )
    hiragana: float = described(
        0.2, "Smallest share of hiragana among these.", minimum=0, maximum=1
    )
    katakana: float = described(0.5, "Largest share of katakana among these.", minimum=0, maximum=1)
    shortest_sentences: float = described(
        20, "Smallest mean length of a sentence, in characters.", minimum=0
    )
    longest_sentences: float = described(
        90, "Largest mean length of a sentence, in characters.", minimum=0
    )
    longest_sentence: int = described(200, "Characters of the longest sentence.", minimum=1)
    ellipses: float = described(
        0.2, "Largest share of sentences that end in an ellipsis.", minimum=0, maximum=1
    )
    repeated_ngrams: float = described(
        0.2,
        "Largest share of different 5-grams that repeat, 0.01 less for each longer n-gram to 10; "
        "Swallow has 0.15.",
        minimum=0.05,
        maximum=1,
    )


@dataclasses.dataclass
class PerplexityConfig:
    """A modified Kneser-Ney model of characters, fitted to clean text, scores documents (CCNet)."""

    reference: str = described("", "The clean text: a file, a directory or a pattern.")
    text_feature: str = described("", "Field of JSONL or column of CSV; empty: text.")
    keep: float = described(
        0.9, "Share of the documents that is kept, those most like the reference.", above=0, below=1
    )
    characters: int = described(
        1000,
        "Characters of a document that are scored: its beginning, middle and end.",
        minimum=20,
    )


@dataclasses.dataclass
class NearDuplicatesConfig:
    """MinHash with locality-sensitive hashing (Broder, 1997): bands of equal hashes.

    A pair of Jaccard similarity s is found with probability 1 - (1 - s^rows)^bands.
    """

    words: int = described(3, "Words of a shingle.", minimum=1)
    bands: int = described(20, "Bands; one that is equal makes a duplicate.", minimum=1)
    rows: int = described(6, "Hashes of a band.", minimum=1)


@dataclasses.dataclass
class RepeatedLinesConfig:
    """Runs of lines that another document had before are cut (C4's three-sentence spans)."""

    lines: int = described(3, "Successive lines that are compared as one.", minimum=1)
    minimum_characters: int = described(
        80, "Characters of the shortest run, so that headings stay.", minimum=1
    )
    minimum_words: int = described(
        10, "Words of the shortest document of which something was cut.", minimum=1
    )


@dataclasses.dataclass
class DecontaminationConfig:
    """Documents that share a long n-gram with an evaluation set are dropped (GPT-3, appendix C)."""

    paths: str = described("", "Evaluation sets, comma-separated: files, directories or patterns.")
    text_feature: str = described("", "Field of JSONL or column of CSV; empty: text.")
    words: int = described(13, "Words of the n-gram that is looked for.", minimum=1)


@dataclasses.dataclass
class RedactionConfig:
    """Personal data and secrets are replaced by placeholders such as <email>."""

    kinds: str = described(
        ", ".join(REDACTIONS), f"Any of {', '.join(REDACTIONS)}, comma-separated."
    )


@dataclasses.dataclass
class ClusterConfig:
    """Where tasks run; the output does not depend on it."""

    executor: str = described(
        "local",
        "local: processes of this machine; slurm: job arrays; ray: a Ray cluster.",
        choices_in="lm_jax.data.preparation.executors:EXECUTORS",
    )
    partition: str = described("", "slurm: the partition.")
    time: str = described("04:00:00", "slurm: the time limit of a task.")
    memory_gb: int = described(4, "slurm, ray: memory of a task.", minimum=1)


@dataclasses.dataclass
class PreparationConfig:
    """How raw text becomes a corpus. All fields but `cluster` decide the output."""

    path: str = described("", "The raw text: a file, a directory or a pattern.")
    text_feature: str = described("", "Field of JSONL or column of CSV; empty: text.")
    invalid_utf8: str = described(
        "refuse", "Texts that are not UTF-8: refuse, replace by U+FFFD, skip.", choices=INVALID_UTF8
    )
    language: str = described("en", "The language that is kept.", choices=LANGUAGES)
    stages: str = described(
        "exact_duplicates, redaction",
        "The stages in their order, comma-separated.",
    )
    tasks: int = described(
        16, "Parts that the work is split into, and files of the output.", minimum=1, maximum=99_999
    )
    tokenizer: str = described(
        "",
        "Also write token files, which data.source=tokens reads: byte, bpe:32000, unigram:8000, "
        "huggingface:DIR, a run as bpe:DIR, ...; empty: none.",
    )
    validation_fraction: float = described(
        0.01,
        "Share of the documents whose tokens are held out, by a hash of each.",
        minimum=0,
        below=1,
    )
    examples: int = described(20, "Dropped documents to read for each rule.", minimum=0)
    language_identification: LanguageConfig = dataclasses.field(default_factory=LanguageConfig)
    gopher_quality: GopherQualityConfig = dataclasses.field(default_factory=GopherQualityConfig)
    c4_quality: C4QualityConfig = dataclasses.field(default_factory=C4QualityConfig)
    fineweb_quality: FineWebQualityConfig = dataclasses.field(default_factory=FineWebQualityConfig)
    japanese_quality: JapaneseQualityConfig = dataclasses.field(
        default_factory=JapaneseQualityConfig
    )
    perplexity: PerplexityConfig = dataclasses.field(default_factory=PerplexityConfig)
    near_duplicates: NearDuplicatesConfig = dataclasses.field(default_factory=NearDuplicatesConfig)
    repeated_lines: RepeatedLinesConfig = dataclasses.field(default_factory=RepeatedLinesConfig)
    decontamination: DecontaminationConfig = dataclasses.field(
        default_factory=DecontaminationConfig
    )
    redaction: RedactionConfig = dataclasses.field(default_factory=RedactionConfig)
    cluster: ClusterConfig = dataclasses.field(default_factory=ClusterConfig)

    def validate(self) -> None:
        """Raises UserError for a value that cannot be used, but for names of stages."""
        validate_fields(self, "")
        if not self.path:
            raise UserError("path is empty: what should be read? Give --config.path=FILES")
        stages = names_in(self.stages)
        repeated = [name for name in stages if stages.count(name) > 1]
        if repeated:
            raise UserError(f"stages names {repeated[0]} twice; a stage runs once")
        unknown = [kind for kind in names_in(self.redaction.kinds) if kind not in REDACTIONS]
        if unknown:
            raise UserError(
                f"redaction.kinds has {unknown[0]!r}; expected any of {', '.join(REDACTIONS)}"
            )
        if "perplexity" in stages and not self.perplexity.reference:
            raise UserError("stages has perplexity, but perplexity.reference names no clean text")
        if "decontamination" in stages and not names_in(self.decontamination.paths):
            raise UserError(
                "stages has decontamination, but decontamination.paths names no evaluation set"
            )
