"""`inspection.json`: what a page shows of the inside of a model, checked before it is drawn."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

from lm_jax.errors import UserError
from lm_jax.json_values import read_as, shown

_PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]*")
_WEIGHTS = re.compile(r"(\.|\d{1,4})( (\.|\d{1,4}))*")  # in thousandths


class Mistake(TypedDict, total=False):
    """A wrong prediction, of a text or of an image."""

    label: str
    predicted: str
    probability: float
    text: str
    image: str


class Boundary(TypedDict):
    """The probability of the last class on a grid, and the points it was trained on."""

    probabilities: list[list[float]]  # [K, K]
    points: list[tuple[float, float]]
    labels: list[int]


class TokenStep(TypedDict):
    """The most probable tokens after a token of a text."""

    after: str
    next: str | None
    tokens: list[str]
    probabilities: list[float]


class NextTokens(TypedDict):
    """Predictions along a text."""

    text: str
    source: list[str] | None
    steps: list[TokenStep]


class Node(TypedDict):
    """A prefix of a beam search."""

    parent: int  # an earlier node; -1: the root
    tokens: list[str]
    log_probability: float
    rank: int | None
    score: float | None


class Attention(TypedDict):
    """The weights of a kind of attention, a line of text for each query token."""

    readers: list[str]
    read: list[str]
    layers: list[int]
    heads: list[int]
    maps: list[list[list[str]]]


class AttentionKinds(TypedDict, total=False):
    """Attention by kind."""

    encoder: Attention
    decoder: Attention
    cross: Attention


class Embedding(TypedDict, total=False):
    """Words on a map, and their nearest neighbours."""

    words: list[str]
    points: list[tuple[float, float]]
    neighbours: dict[str, list[str]]


class Example(TypedDict):
    """A translation."""

    source: str
    translation: str
    reference: str


class Inspection(TypedDict, total=False):
    """What `lm_jax.analysis.inspect` found."""

    labels: list[str]
    confusion: list[list[int]]
    mistakes: list[Mistake]
    boundary: Boundary
    filters: str
    feature_maps: str
    feature_maps_of: str
    expert_loads: dict[str, list[list[float]]]
    embedding: Embedding
    next_tokens: NextTokens
    beams: list[Node]
    attention: AttentionKinds
    translations: list[Example]


def read_inspection(workdir: Path) -> Inspection:
    """Returns what is known of the inside of a model; empty where there is no such file.

    Raises:
      UserError: the file is damaged: a field has another type, lists that belong together have
        other lengths, or a picture is no PNG inside the page.
    """
    path = workdir / "inspection.json"
    found = read_as(path, Inspection) if path.exists() else Inspection()
    if fault := next(_faults(found), ""):
        raise UserError(f"{path}: {fault}; restore it")
    return found


def _faults(found: Inspection) -> Iterator[str]:
    labels, confusion = found.get("labels", []), found.get("confusion", [])
    if confusion:
        yield from _unequal("confusion", confusion, "labels", labels)
        for row in confusion:
            yield from _unequal("a row of confusion", row, "labels", labels)
            if any(count < 0 for count in row):
                yield "confusion has a count below 0; expected numbers of examples"
    yield from _no_picture("filters", found.get("filters", ""))
    yield from _no_picture("feature_maps", found.get("feature_maps", ""))
    yield from _no_picture("feature_maps_of", found.get("feature_maps_of", ""))
    for mistake in found.get("mistakes", []):
        yield from _faults_of_mistake(mistake, found["mistakes"][0])
    if boundary := found.get("boundary"):
        yield from _unequal("points", boundary["points"], "labels", boundary["labels"])
        if not boundary["probabilities"]:
            yield "boundary holds no probabilities"
        for values in boundary["probabilities"]:
            yield from _unequal("a row of probabilities", values, "all", boundary["probabilities"])
    embedding = found.get("embedding")
    if embedding and not embedding.keys() >= Embedding.__annotations__.keys():
        yield "embedding has not all of words, points and neighbours"
    elif embedding:
        yield from _unequal("words", embedding["words"], "points", embedding["points"])
    for step in found.get("next_tokens", {"steps": []})["steps"]:
        yield from _unequal("tokens", step["tokens"], "probabilities", step["probabilities"])
    yield from _faults_of_loads(found)
    yield from _faults_of_beams(found.get("beams", []))
    attention: dict[str, Any] = {**found.get("attention", {})}
    for kind, maps in attention.items():
        if kind not in AttentionKinds.__annotations__:
            kinds = ", ".join(AttentionKinds.__annotations__)
            yield f"attention has the kind {shown(kind)}; expected {kinds}"
            return
        yield from _faults_of_attention(f"attention.{kind}", maps)


def _unequal(
    name: str, values: Sequence[object], other: str, others: Sequence[object]
) -> Iterator[str]:
    if len(values) != len(others):
        yield f"{name} has {len(values)} items and {other} {len(others)}; expected equally many"


def _no_picture(name: str, address: str) -> Iterator[str]:
    if address and not _PICTURE.fullmatch(address):
        yield f"{name} is {shown(address)}; expected a PNG as data:image/png;base64,..."


def _faults_of_mistake(mistake: Mistake, first: Mistake) -> Iterator[str]:
    wanted = {"label", "predicted", "probability", "image" if "image" in first else "text"}
    if missing := sorted(wanted - mistake.keys()):
        yield f"an item of mistakes holds no {missing[0]}"
    yield from _no_picture("image of mistakes", mistake.get("image", ""))


def _faults_of_loads(found: Inspection) -> Iterator[str]:
    for stack, layers in found.get("expert_loads", {}).items():
        for row in layers:
            if not row or any(load < 0 for load in row):
                yield f"expert_loads of {shown(stack)} has no loads, or one below 0"


def _faults_of_beams(nodes: Sequence[Node]) -> Iterator[str]:
    for index, node in enumerate(nodes):
        parent = node["parent"]
        if parent not in range(index) if index else parent != -1:
            yield f"beams[{index}].parent is {parent}; expected an earlier node, -1 for the first"
        if (node["rank"] is None) != (node["score"] is None):
            yield f"beams[{index}] has only one of rank and score"


def _faults_of_attention(name: str, found: Attention) -> Iterator[str]:
    if not (found["layers"] and found["heads"]):
        yield f"{name} has no layer or no head"
    yield from _unequal(f"{name}.maps", found["maps"], "layers", found["layers"])
    for layer in found["maps"]:
        yield from _unequal(f"a layer of {name}.maps", layer, "heads", found["heads"])
        for lines in layer:
            yield from _unequal(f"a map of {name}", lines, "readers", found["readers"])
            for line in lines:
                yield from _unequal(f"a row of {name}", line.split(" "), "read", found["read"])
                if not _WEIGHTS.fullmatch(line):
                    yield f"{name} has the weights {shown(line)}; expected thousandths or dots"
