"""What tokens are called where people see them."""

from collections.abc import Callable

import numpy as np

from lm_jax import data
from lm_jax.config.experiment import Experiment
from lm_jax.objectives import objective_of

_DOT = "\u00b7"


def namer(tokenizer: data.Tokenizer, experiment: Experiment) -> Callable[[int], str]:
    """Tokens as texts, spaces as dots; in angle brackets what is no text.

    Ids beyond the tokenizer's are the mask, or sentinels, which count from the last id. A part of
    a character has its own id.
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
