"""Multinomial naive Bayes (McCallum & Nigam 1998): a unigram model of each class.

Axes: b batch, t time, v vocabulary, c classes.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.fields import described
from lm_jax.models.family import Family
from lm_jax.models.interface import Batch, Model, Variables, loss_from_apply
from lm_jax.models.parameters import Declared


@dataclasses.dataclass
class NaiveBayesConfig:
    """Counts of words by class, with `k` added to each."""

    vocab_size: int = described(0, "Size of the vocabulary; 0: the tokenizer's.", minimum=0)
    num_classes: int = described(0, "Number of classes; 0: the data set's.", minimum=0)
    context_length: int = described(1024, "Tokens of the longest text that is read.", minimum=1)
    k: float = described(1.0, "Added to each count of a word.", above=0)


def naive_bayes(config: NaiveBayesConfig, dtype: Any = jnp.float32) -> Model:
    """Returns the classifier: log p(class) + the sum of log p(word | class) as logits.

    `fit` counts a training split: `inputs` are its tokenized documents, `targets` their classes.

    Raises:
      UserError: the numbers of words and classes are not given.
    """
    if config.vocab_size < 1 or config.num_classes < 2:
        raise UserError(
            f"model.vocab_size is {config.vocab_size} and model.num_classes {config.num_classes}; "
            "expected words, and at least 2 classes"
        )
    shape = (config.vocab_size, config.num_classes)

    def variables_of(log_likelihood_vc: Any, log_prior_c: Any) -> Variables:
        return {"params": {"log_likelihood": log_likelihood_vc, "log_prior": log_prior_c}}

    def init(key: jax.Array, batch: Batch) -> Variables:
        """Returns parameters for which all words and classes are equally probable."""
        likelihood = Declared(jnp.full(shape, -math.log(config.vocab_size)), ("vocab", None))
        prior = jnp.full(config.num_classes, -math.log(config.num_classes))
        return variables_of(likelihood, Declared(prior, (None,)))

    def fit(examples: Any) -> Variables:
        documents, targets = examples.inputs, np.asarray(examples.targets)
        lengths = np.diff(documents.starts) - 1
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        places = np.repeat(documents.starts[:-1] + 1, lengths) + within
        read = within < config.context_length
        classes = np.repeat(targets, lengths)[read]
        cells = documents.tokens[places[read]].astype(np.int64) * config.num_classes + classes
        counts_vc = np.bincount(cells, minlength=math.prod(shape)).reshape(shape) + config.k
        likelihood_vc = np.log(counts_vc / counts_vc.sum(axis=0))
        prior_c = np.log(np.bincount(targets, minlength=config.num_classes) / len(targets))
        return variables_of(
            jnp.asarray(likelihood_vc, jnp.float32), jnp.asarray(prior_c, jnp.float32)
        )

    def apply(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None):
        params, is_text_bt = variables["params"], batch["segments"] > 0
        scores_btc = params["log_likelihood"][batch["inputs"]]
        scores_bc = jnp.where(is_text_bt[..., None], scores_btc, 0).sum(axis=1)
        return scores_bc + params["log_prior"], {}

    return Model(init, apply, loss_from_apply(apply), fit=fit)


FAMILY = Family(NaiveBayesConfig, naive_bayes, ("classification",))
