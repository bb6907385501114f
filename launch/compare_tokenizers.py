"""Compares tokenizers on held-out documents of your texts.

  python -m launch.compare_tokenizers --text='books/*.txt' --tokenizers=byte,bpe:4096,unigram:4096
  python -m launch.compare_tokenizers --text=books --tokenizers=bpe:8192,huggingface:models/gpt2

A tokenizer is KIND, KIND:VOCABULARY, or KIND:PATH for one that is read from files or taken from a
run. The others are trained on the training documents, as a run would train them. Partial tokens
hold part of a character: fallback bytes. Bits per character are those of the same model for all, a
Kneser-Ney 3-gram of tokens counted in the training documents; they include the ends of documents,
and there are none where a tokenizer loses text. The last line of the output is JSON with the
figures.
"""

from typing import Any

from absl import flags

from launch import program
from lm_jax.errors import UserError

TEXT = flags.DEFINE_string(
    "text", None, "The texts, as data.path: a file, a directory or a pattern.", required=True
)
TOKENIZERS = flags.DEFINE_list(
    "tokenizers", ["byte", "char:4096", "bpe:4096", "unigram:4096"], "What to compare."
)


def main() -> dict[str, Any]:
    """Prints a table and returns its figures."""
    if not TOKENIZERS.value:
        raise UserError("--tokenizers is empty; give KIND:VOCABULARY or KIND:PATH, comma-separated")
    from lm_jax.evaluation.tokenizer_comparison import compare_tokenizers
    from lm_jax.reports.numbers import timing

    try:
        rows = list(compare_tokenizers(TEXT.value, TOKENIZERS.value))
    except UserError as error:  # in the words of a configuration
        raise UserError(str(error).replace("data.path", "--text")) from None
    titles = ["tokenizer", "ids", "characters/token", "bytes/token", "partial tokens"]
    table = [[*titles, "ids never used", "lossless", "MB/s", "bits/character"]]
    for row in rows:
        bits = row.bits_per_character
        table.append(
            [
                row.name,
                f"{row.vocab_size:,}",
                f"{row.characters_per_token:.3f}",
                f"{row.bytes_per_token:.3f}",
                f"{row.partial_share:.2%}",
                f"{row.never_used:,}",
                "yes" if row.lossless else "no",
                timing(row.megabytes_per_second),
                "-" if bits is None else f"{bits:.3f}",
            ]
        )
    program.log_table(table, "<" + ">" * 5 + "<" + ">>")
    return {"text": TEXT.value, "tokenizers": [row._asdict() for row in rows]}


if __name__ == "__main__":
    program.run(main)
