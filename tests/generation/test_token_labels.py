"""Labels of tokens with and without text."""

from lm_jax.data import TokenizerConfig
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.generation.token_labels import namer
from lm_jax.models.transformer.config import EncoderConfig
from tests.experiments import tiny

TOKENIZER = train_tokenizer(TokenizerConfig("byte"), [])


def test_labels_of_text_spaces_ends_and_sentinels():
    experiment = tiny(objective="masked_lm", model=EncoderConfig(vocab_size=258))
    name = namer(TOKENIZER, experiment)
    assert [name(token) for token in (104, 32, 10, 226, 256, 257)] == [
        "h", "\u00b7", "\\n", "<#226>", "<end>", "<mask>"
    ]  # fmt: skip
    experiment.objective = "span_corruption"
    experiment.model.vocab_size = 259
    assert [namer(TOKENIZER, experiment)(token) for token in (258, 257)] == ["<1>", "<2>"]
