import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.naive_bayes import MultinomialNB

from lm_jax.data import TokenizerConfig, tokenize, train_tokenizer
from lm_jax.data.classification.batches import Examples, text_reader
from lm_jax.errors import UserError
from lm_jax.models import build_model
from lm_jax.models.naive_bayes import NaiveBayesConfig

TEXTS = ["good good film", "a bad film", "bad", "good", "what a film", "a bad bad bad plot"]
LABELS = np.array([1, 0, 0, 1, 1, 0], np.int32)
WORDS = train_tokenizer(TokenizerConfig("word", 30), TEXTS)
EXAMPLES = Examples(tokenize(WORDS, TEXTS), LABELS)


def test_it_is_scikit_learns_multinomial_naive_bayes():
    config = NaiveBayesConfig(vocab_size=WORDS.vocab_size, num_classes=2, k=0.5)
    model = build_model(config, jnp.float32)
    batch = text_reader(EXAMPLES.inputs, 8)(np.arange(len(TEXTS)), None)
    logits, _ = model.apply(model.fit(EXAMPLES), batch, train=False)
    counts = np.stack([np.bincount(WORDS.encode(t), minlength=WORDS.vocab_size) for t in TEXTS])
    reference = MultinomialNB(alpha=0.5).fit(counts, LABELS).predict_proba(counts)
    np.testing.assert_allclose(jax.nn.softmax(logits), reference, atol=1e-6)


def test_it_counts_no_more_of_a_text_than_it_reads():
    model = build_model(
        NaiveBayesConfig(vocab_size=WORDS.vocab_size, num_classes=2, context_length=1), jnp.float32
    )
    first_words = Examples(tokenize(WORDS, [text.split()[0] for text in TEXTS]), LABELS)
    jax.tree.map(np.testing.assert_array_equal, model.fit(EXAMPLES), model.fit(first_words))


def test_an_impossible_smoothing_is_refused():
    with pytest.raises(UserError, match="model.k is 0"):
        build_model(NaiveBayesConfig(vocab_size=5, num_classes=2, k=0.0), jnp.float32)
