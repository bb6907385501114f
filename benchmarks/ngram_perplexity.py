"""Perplexities of modified Kneser-Ney n-grams on tinyshakespeare, compared with KenLM.

  python -m benchmarks.ngram_perplexity --text=tinyshakespeare.txt \
      --output=benchmarks/results/ngram_perplexity.json

Words: the file in lower case, 90% for training and the rest for testing, split at white space. The
end of every line, the last and empty one included, is a token; words seen once are one unknown
word. KenLM gives 132.7036 at order 2 and 125.9439 at order 3, over 24,630 events including the end
of the text. Characters: the same split; results are nats per character, the end included.
"""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from lm_jax.data import TokenizerConfig, tokenize, train_tokenizer
from lm_jax.data.text.windows import evaluation_batches
from lm_jax.evaluation.loss_sums import make_loss_function, sum_by_document
from lm_jax.models.ngram.model import NgramConfig, ngram
from lm_jax.parallel import sharding
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import write_json

TEXT = flags.DEFINE_string("text", None, "Karpathy's input.txt of char-rnn.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")

_WINDOW = 1024


def cross_entropy(train: str, test: str, tokens: TokenizerConfig, order: int) -> tuple[float, int]:
    """Returns nats per event of the test text, its end included, and the number of events."""
    tokenizer = train_tokenizer(tokens, [train])
    counted, coded = tokenize(tokenizer, [train]), tokenize(tokenizer, [test])
    model = ngram(NgramConfig(tokenizer.vocab_size, context_length=_WINDOW, order=order))
    assert model.fit is not None
    mesh = sharding.make_mesh("data:1", jax.devices()[:1])
    sums = sum_by_document(
        make_loss_function(model.loss),
        jax.tree.map(jnp.asarray, model.fit(counted)),
        evaluation_batches(
            coded, context_length=_WINDOW, batch_size=16, stride=_WINDOW - order + 1
        ),
        1,
        mesh,
    )
    return float(sums.nats[0] / sums.tokens[0]), int(sums.tokens[0])


def main(_: list[str]) -> None:
    """Prints a table and writes the JSON file, if one is given."""
    text = Path(TEXT.value).read_text(encoding="utf-8")
    cut = int(0.9 * len(text))
    train, test = text[:cut], text[cut:]
    words = TokenizerConfig("whitespace", 100_000, lowercase=True, minimum_count=2)
    characters = TokenizerConfig("char", 1024)
    result: dict[str, Any] = {"words, perplexity": {}, "characters, nats": {}}
    for order in (2, 3, 4, 5):
        nats, events = cross_entropy(train + "\n", test + "\n", words, order)
        result["words, perplexity"][order] = math.exp(nats)
        print(f"words       order {order}: perplexity {math.exp(nats):9.4f} over {events:,} events")
    for order in range(1, 9):
        nats, events = cross_entropy(train, test, characters, order)
        result["characters, nats"][order] = nats
        bits = nats / np.log(2)
        print(f"characters  order {order}: {nats:.4f} nats, {bits:.4f} bits over {events:,} events")
    if OUTPUT.value:
        path = Path(OUTPUT.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"environment": environment()} | result)


if __name__ == "__main__":
    app.run(main)
