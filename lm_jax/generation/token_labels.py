"""Labels of tokens in pages and on the command line."""

from collections.abc import Callable

import numpy as np

from lm_jax import data
from lm_jax.config.experiment import Experiment
from lm_jax.objectives import objective_of

_DOT = "\u00b7"


def namer(tokenizer: data.Tokenizer, experiment: Experiment) -> Callable[[int], str]:
    """Returns a function from a token to its label.

    The label is the token's text with spaces shown as dots. Angle brackets mark tokens without
    text: the end of a document, the mask, sentinels (numbered from the last id of the vocabulary),
    and, by their id, tokens that hold a part of a character.
    """

    def name(token: int) -> str:
        if token == tokenizer.end_of_document:
            return "<end>"
        if token >= tokenizer.vocab_size:
            number = experiment.model.vocab_size - token
            return objective_of(experiment).special_token or f"<{number}>"
        text = repr(tokenizer.decode(np.array([token])))[1:-1]
        return f"<#{token}>" if "\ufffd" in text else text.replace(" ", _DOT)

    return name
