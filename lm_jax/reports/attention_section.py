"""Attention maps as HTML: all of them as small pictures, and one as a table that can be chosen."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from lm_jax.reports.html import render
from lm_jax.reports.png import png

_NAMES = {
    "encoder": "encoder, to its own text",
    "decoder": "decoder, to its own text",
    "cross": "decoder, to the source",
}


def attention_section(maps: Mapping[str, Any] | None) -> Markup:
    """Returns the body of the section; empty without maps.

    The page's script fills the table with the chosen map; without it the table shows the first map.

    Args:
      maps: what `lm_jax.analysis.attention_maps.attention` found, by kind of attention.
    """
    if not maps:
        return Markup()
    first = next(iter(maps.values()))
    kinds = [
        {
            "name": _NAMES[kind],
            "short_name": kind,
            "layers": found["layers"],
            "heads": found["heads"],
            "key_tokens": found["read"],
            "pictures": _pictures(found),
        }
        for kind, found in maps.items()
    ]
    first_map = [
        (query, [_weight(cell) for cell in line.split()])
        for query, line in zip(first["readers"], first["maps"][0][0], strict=True)
    ]
    return render("attention.html", kinds=kinds, first_map=first_map, maps=list(maps.values()))


def _weight(thousandths: str) -> float | None:
    return None if thousandths == "." else int(thousandths) / 1000


def _pictures(found: Mapping[str, Any]) -> list[tuple[int, list[tuple[int, str]]]]:
    """Returns the pictures of all heads, by layer."""
    return [
        (layer, [(head, _picture(map)) for head, map in zip(found["heads"], maps, strict=True)])
        for layer, maps in zip(found["layers"], found["maps"], strict=True)
    ]


def _picture(lines: Sequence[str]) -> str:
    """Returns a map as a `data:` address: white is weight 0, black is weight 1."""
    thousandths = np.array([line.replace(".", "0").split() for line in lines], np.int64)
    return png(np.round(255 * (1 - np.sqrt(thousandths / 1000))).astype(np.uint8))
