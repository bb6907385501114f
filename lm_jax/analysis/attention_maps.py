"""The attention weights of one example, by layer and head: as arrays, and as JSON for a page.

Axes: b batch, l layers, h heads, t query tokens, s key tokens.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import data
from lm_jax.analysis.text_windows import closes_texts
from lm_jax.build import BuiltExperiment
from lm_jax.errors import UserError
from lm_jax.generation.token_labels import namer
from lm_jax.models import Variables, family_name, family_of
from lm_jax.models.family import AttentionMaps
from lm_jax.models.transformer.attention import distances, visible
from lm_jax.reports.attention_section import attention_section
from lm_jax.reports.html import render

_KINDS = ("encoder", "decoder", "cross")
_MOST_SHOWN = 40  # tokens of a text in a notebook
_WIDTH_MULTIPLE = 32  # rows are padded to it, as each width compiles a program
_LARGEST = 12  # layers that are kept, and heads of each layer


class AttentionMap(NamedTuple):
    """The weights of one kind of attention."""

    weights: np.ndarray  # float32 [L, H, T, S]; each row sums to 1
    queries: list[str]  # [T]: labels of the tokens that attend
    keys: list[str]  # [S]: labels of the tokens that they attend to
    visible: np.ndarray  # bool [L, T, S]: False where a key is masked


@dataclasses.dataclass(frozen=True, repr=False)
class TextAttention:
    """The attention of one text by kind: `decoder`, `encoder` (to its own text), or `cross`."""

    maps: Mapping[str, AttentionMap]

    @property
    def weights(self) -> np.ndarray:
        """The weights of the only kind, float32 [L, H, T, T].

        Raises:
          UserError: there are several; take one of `maps`.
        """
        if len(self.maps) > 1:
            raise UserError(
                f"there is attention of {len(self.maps)} kinds: take maps[KIND].weights, KIND of "
                f"{', '.join(self.maps)}"
            )
        (found,) = self.maps.values()
        return found.weights

    def __repr__(self) -> str:
        shapes = (f"{kind} {found.weights.shape}" for kind, found in self.maps.items())
        return f"<TextAttention of {', '.join(shapes)}>"

    def _repr_html_(self) -> str:
        """Returns the maps of the first 40 tokens, to choose from, in a frame of their own."""
        shown = slice(_MOST_SHOWN)
        section = attention_section(
            {kind: _as_json(_part(found, shown, shown)) for kind, found in self.maps.items()}
        )
        return str(render("attention_frame.html", section=section))


def _part(found: AttentionMap, rows: slice, columns: slice) -> AttentionMap:
    return AttentionMap(
        found.weights[:, :, rows, columns],
        found.queries[rows],
        found.keys[columns],
        found.visible[:, rows, columns],
    )


def text_attention(
    attention_maps: AttentionMaps,
    variables: Variables,
    example: Mapping[str, Any],
    name: Callable[[int], str],
    windows: Mapping[str, np.ndarray],
) -> TextAttention:
    """Returns the maps of one example.

    Args:
      attention_maps: the function that the model's family declares, compiled or not.
      variables: the model's variables.
      example: one text [1, T], or one pair with a `source` [1, S].
      name: the label of a token.
      windows: the distance from which each layer reads no key, by kind, as the family declares it.
    """
    text = [name(int(token)) for token in example["inputs"][0]]
    source = [name(int(token)) for token in example["source"][0]] if "source" in example else text
    batch = {key: jnp.asarray(value) for key, value in example.items()}
    maps = attention_maps(variables, batch)
    found = {}
    for kind in (kind for kind in _KINDS if kind in maps):
        queries = source if kind == "encoder" else text
        keys = text if kind == "decoder" else source
        weights_lhts = np.asarray(maps[kind])[0]
        num_layers, _, *shape = weights_lhts.shape
        visible_lts = np.ones((num_layers, *shape), bool)
        time_bt = jnp.arange(len(queries))[None]
        if kind == "decoder":
            visible_lts &= np.asarray(visible(time_bt, time_bt, example.get("prefix")))
        if kind in windows:
            visible_lts &= distances(time_bt, time_bt) < windows[kind][:, None, None]
        found[kind] = AttentionMap(weights_lhts, queries, keys, visible_lts)
    return TextAttention(found)


def analyse_attention(
    attention_maps: AttentionMaps,
    variables: Variables,
    example: Mapping[str, Any],
    name: Callable[[int], str],
    windows: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Returns the maps of one example by kind: `encoder`, `decoder`, `cross`.

    A kind has the numbers of its `layers` and `heads`, from 1; of more than 12 it has the first
    and the last 6. `maps[layer][head]` has a line of text for each query token (`readers`): its
    weight for each key token (`read`) in thousandths, or a dot where the key is masked.

    Args:
      attention_maps: as for `text_attention`, and so are the others.
      variables: as there.
      example: as there.
      name: as there.
      windows: as there.
    """
    found = text_attention(jax.jit(attention_maps), variables, example, name, windows)
    return {kind: _as_json(of_kind) for kind, of_kind in found.maps.items()}


class AttentionReader:
    """Reads the attention of texts, with few compiled programs."""

    def __init__(self, built: BuiltExperiment, variables: Variables, tokenizer: data.Tokenizer):
        """Finds how the family of a model shows its attention.

        Raises:
          UserError: it has none.
        """
        config = built.experiment.model
        attention_maps = family_of(config).attention_maps(config)
        if attention_maps is None:
            raise UserError(f"model.family {family_name(config)} has no attention to show")
        self._built, self._variables, self._tokenizer = built, variables, tokenizer
        self._maps = jax.jit(attention_maps)
        self._windows = family_of(config).attention_windows(config)
        self._reads_source = family_of(config).has_encoder

    def read(self, text: str, source: str | None) -> TextAttention:
        """Returns the attention of a text, and to its source.

        Raises:
          UserError: there is no source for an encoder to read, or one too many; or they are longer
            than the model reads.
        """
        config, end = self._built.experiment.model, self._tokenizer.end_of_document
        opening = [self._tokenizer.beginning] if self._built.objective.opens_texts else []
        closing = [end] if closes_texts(self._built, self._tokenizer) else []
        tokens = [*opening, *self._tokenizer.encode(text).tolist(), *closing] or [end]
        rows = {"inputs": tokens}
        lengths = {"inputs": config.context_length}
        if self._reads_source != (source is not None):
            raise UserError(
                "the model has an encoder: give the text and the source that it reads, source=..."
                if self._reads_source
                else "the model has no encoder to read a source: leave source out"
            )
        if source is not None:
            rows["source"] = [*self._tokenizer.encode(source).tolist(), end]
            lengths["source"] = config.source_length
        example: dict[str, np.ndarray] = {}
        for name, row in rows.items():
            if len(row) > lengths[name]:
                raise UserError(
                    f"the {'text' if name == 'inputs' else name} has {len(row):,} tokens with the "
                    f"end of a document; the model reads {lengths[name]:,} at once: shorten it"
                )
            width = min(-(-len(row) // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE, lengths[name])
            padding = width - len(row)
            segments = "segments" if name == "inputs" else f"{name}_segments"
            example[name] = np.array([row + [end] * padding], np.int32)
            example[segments] = np.array([[1] * len(row) + [0] * padding], np.int32)
        label = namer(self._tokenizer, self._built.experiment)
        found = text_attention(self._maps, self._variables, example, label, self._windows)
        own = slice(len(tokens))
        theirs = slice(len(rows.get("source", tokens)))
        return TextAttention(
            {
                kind: _part(
                    of_kind,
                    theirs if kind == "encoder" else own,
                    own if kind == "decoder" else theirs,
                )
                for kind, of_kind in found.maps.items()
            }
        )


def _as_json(found: AttentionMap) -> dict[str, Any]:
    layers, heads = (_first_and_last(count) for count in found.weights.shape[:2])
    return {
        "readers": found.queries,
        "read": found.keys,
        "layers": [layer + 1 for layer in layers],
        "heads": [head + 1 for head in heads],
        "maps": [
            [_lines(found.weights[layer, head], found.visible[layer]) for head in heads]
            for layer in layers
        ],
    }


def _first_and_last(count: int) -> list[int]:
    if count <= _LARGEST:
        return list(range(count))
    return [*range(_LARGEST // 2), *range(count - _LARGEST // 2, count)]


def _lines(map_ts: np.ndarray, visible_ts: np.ndarray) -> list[str]:
    # The weights alone do not show what is masked: they may underflow to 0.
    cells_ts = np.where(visible_ts, np.char.mod("%.0f", 1000 * map_ts), ".")
    return [" ".join(cells) for cells in cells_ts.tolist()]
