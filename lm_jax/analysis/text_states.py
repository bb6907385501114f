"""What a model makes of a text inside: the states of its tokens by layer, and one vector a text.

Axes: l layers, t tokens, d model width, n texts.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from lm_jax import data
from lm_jax.analysis.text_windows import (
    TokenizedText,
    closes_texts,
    context_of,
    tokenized_texts,
    windows_of,
)
from lm_jax.build import BuiltExperiment
from lm_jax.choices import choose
from lm_jax.errors import UserError
from lm_jax.evaluation.token_scores import Scored, packed_batches
from lm_jax.models import Batch, Variables, family_name, family_of
from lm_jax.models.family import HiddenStates
from lm_jax.parallel import sharding
from lm_jax.plurals import counted

Layers = tuple[int, ...] | None  # None: all of them
_MOST_TOKENS = 2**11  # of a batch, whose states of all layers are held at once
_MOST_TEXTS = 256  # whose states are held at once before they are pooled


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TextStates:
    """The hidden states of the T tokens that a model reads of a text, as in training.

    Models of running text first read the token that opens a text; encoders of an encoder-decoder
    read it last, and classifiers not at all, unless there is nothing else. An imported BERT reads
    the end of a text, too.
    """

    text: str
    tokens: np.ndarray  # int32 [T]
    offsets: np.ndarray  # int32 [T, 2]: as `TextScores.offsets`
    states_ltd: np.ndarray
    """float32 [L + 1, T, D]: what the first layer reads, then the output of each layer.

    The last is after the final norm, as the output table reads it."""

    def __repr__(self) -> str:
        return f"<TextStates of {counted(len(self.text), 'character')}: {self.states_ltd.shape}>"


class StateReader:
    """Reads the states of many texts with few compiled programs."""

    def __init__(self, built: BuiltExperiment, variables: Variables, tokenizer: data.Tokenizer):
        """Finds how the family of a model shows its states.

        Raises:
          UserError: it does not.
        """
        config = built.experiment.model
        family = family_of(config)
        hidden_states = family.hidden_states(config)
        if hidden_states is None:
            raise UserError(
                f"model.family {family_name(config)} shows no hidden states; Transformers do"
            )
        self._built, self._variables, self._tokenizer = built, variables, tokenizer
        self._reads_source = family.has_encoder
        self.opens = built.objective.opens_texts and not family.has_encoder
        self.closes = closes_texts(built, tokenizer)
        self._length = config.source_length if family.has_encoder else config.context_length
        self._states = jax.jit(functools.partial(_states, hidden_states), static_argnums=2)

    def read(
        self,
        texts: Sequence[str],
        layers: Layers,
        stride: int,
        context_length: int,
        *,
        with_offsets: bool = True,
    ) -> list[TextStates]:
        """Returns the states of each text; those of an encoder-decoder are of its encoder.

        Args:
          with_offsets: as for `tokenized_texts`.

        Raises:
          UserError: a text cannot be encoded, there is no such layer, the stride would leave tokens
            out, or the model does not read so long a context.
        """
        length = context_of(self._built, context_length, self._length)
        end = np.array([self._tokenizer.end_of_document], np.int32)
        tokenized = tokenized_texts(self._tokenizer, texts, with_offsets=with_offsets)
        given = [self._as_read(text) for text in tokenized]
        streams = [np.concatenate([text.tokens, end]) for text in given]
        windows = [list(windows_of(stream, length, stride)) for stream in streams]
        found = iter(self._read_windows(list(itertools.chain.from_iterable(windows)), layers))
        return [
            TextStates(*text, np.concatenate([next(found) for _ in cut], axis=1))
            for text, cut in zip(given, windows, strict=True)
        ]

    def _as_read(self, text: TokenizedText) -> TokenizedText:
        """Returns a text with the tokens that the model reads of it."""
        tokens, offsets = text.tokens, text.offsets
        if self._reads_source:
            return text  # with its end
        if self.opens:
            opening = np.array([self._tokenizer.beginning], np.int32)
            offsets = np.concatenate([np.zeros((1, 2), np.int32), offsets])
            tokens = np.concatenate([opening, tokens])
            kept = slice(None if self.closes else -1)
            return TokenizedText(text.text, tokens[kept], offsets[kept])
        has_tokens = len(tokens) > 1
        return text._replace(tokens=tokens[:-1], offsets=offsets[:-1]) if has_tokens else text

    def _read_windows(self, windows: Sequence[Scored], layers: Layers) -> list[np.ndarray]:
        """Returns the states of what each window adds, [L, t, D] each."""
        mesh = self._built.mesh
        placed = sharding.batch_sharding(mesh)
        found: list[np.ndarray] = [np.zeros(0)] * len(windows)
        with sharding.on_mesh(mesh):
            for rows, batch in packed_batches(windows, mesh, self._length, _MOST_TOKENS):
                arrays = sharding.place_batch(self._arrays(batch), placed)
                states_bltd = np.asarray(self._states(self._variables, arrays, layers))
                for row, members in enumerate(rows):
                    at = 0
                    for index in members:
                        tokens, first = windows[index]
                        stop = at + len(tokens) - 1
                        found[index] = states_bltd[row, :, at + first - 1 : stop]
                        at = stop
        return found

    def _arrays(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns what the model reads of packed rows."""
        names = ("inputs", "segments", "positions")
        if not self._reads_source:
            return {name: batch[name] for name in names}
        source = {"source": batch["inputs"], "source_segments": batch["segments"]}
        nothing = np.zeros((len(batch["inputs"]), 1), np.int32)
        return {**source, "source_positions": batch["positions"], "inputs": nothing}


def _states(
    hidden_states: HiddenStates, variables: Variables, batch: Batch, layers: Layers
) -> jax.Array:
    """Returns the states of some layers, [b, l, t, d]: those of the encoder if there are two."""
    states_bltd = next(iter(hidden_states(variables, batch).values()))
    if layers is None:
        return states_bltd
    count = states_bltd.shape[1]
    for layer in layers:
        if not -count <= layer < count:
            raise UserError(
                f"layer {layer} is asked for; expected 0, which is what the first layer reads, to "
                f"{count - 1}, or -1 for the last"
            )
    return states_bltd[:, np.array(layers) % count]


POOLINGS: dict[str, Callable[[np.ndarray, slice], np.ndarray]] = {
    "mean": lambda states_td, own: states_td[own].mean(axis=0),
    "last": lambda states_td, own: states_td[-1],
    "first": lambda states_td, own: states_td[0],
}
"""States of a text [t, d], and which are of its own tokens -> one vector [d]."""


def embed_texts(
    reader: StateReader,
    texts: Sequence[str],
    pooling: str,
    layer: int,
    stride: int,
    context_length: int,
) -> np.ndarray:
    """Returns a vector for each text, float32 [n, d].

    Raises:
      UserError: there are no texts or no such pooling; or as `StateReader.read`.
    """
    pool = choose(POOLINGS, pooling, "pooling")
    if not texts:
        raise UserError("there are no texts to embed; give at least one")
    vectors = []
    for first in range(0, len(texts), _MOST_TEXTS):
        part = texts[first : first + _MOST_TEXTS]
        for each in reader.read(part, (layer,), stride, context_length, with_offsets=False):
            (states_td,) = each.states_ltd
            first_own, stop = int(reader.opens), len(states_td) - int(reader.closes)
            own = slice(first_own, stop) if first_own < stop else slice(1)
            vectors.append(pool(states_td, own))
    return np.stack(vectors)
