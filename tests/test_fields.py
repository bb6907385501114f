"""Fields with a description accept exactly the values that it names."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lm_jax.config.parts import SamplesConfig
from lm_jax.errors import UserError
from lm_jax.fields import choices_of, described, described_in, validate_fields
from lm_jax.generation.beam_search import LENGTH_PENALTIES, BeamSearch
from lm_jax.generation.generate import settings
from lm_jax.generation.sampling import Sampling


@dataclasses.dataclass
class Part:
    count: int = described(3, "A count.", minimum=1)
    share: float = described(0.5, "A share.", above=0, maximum=1)
    kind: str = described("a", "A kind.", choices=("a", "b"))
    rate: float = described(0.0, "A rate.", minimum=0, below=1)
    special: float = described(-1.0, "Special.", minimum=0, below=1, besides={-1: "rest"})
    free: int = -7
    real: float = 0.0


@dataclasses.dataclass
class Derived(Part):
    count: int = described_in(Part, "count", 5)


@pytest.mark.parametrize(
    "part",
    [Part(), Part(1), Part(share=1.0), Part(share=1e-9), Part(kind="b"), Derived()],
)
def test_values_that_are_accepted(part):
    validate_fields(part, "part.")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part(0), "part.count is 0; expected at least 1"),
        (Part(share=0.0), "part.share is 0.0; expected 0 < share <= 1"),
        (Part(share=1.5), "part.share is 1.5; expected 0 < share <= 1"),
        (Part(share=float("nan")), "part.share is nan; expected 0 < share <= 1"),
        (Part(rate=1.0), "part.rate is 1.0; expected 0 <= rate < 1"),
        (Part(kind="c"), "part.kind is 'c'; expected one of a, b"),
        (
            Part(special=-0.5),
            "part.special is -0.5; expected 0 <= special < 1, or -1 for rest",
        ),
        (Part(free=2**31), "part.free is 2147483648; expected at most 2147483647"),
        (Part(real=float("nan")), "part.real is nan; expected a finite number of float32"),
        (Part(real=-1e39), r"part.real is -1e\+39; expected a finite number of float32"),
        (Derived(0), "part.count is 0; expected at least 1"),
    ],
)
def test_values_that_are_refused(part, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        validate_fields(part, "part.")


@dataclasses.dataclass
class Whole:
    part: Part = dataclasses.field(default_factory=Part)
    name: str = ""
    on: bool = True
    quoted: "int" = 0
    other: int | None = None


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        (Whole(Part("3")), "x.part.count is '3'; expected an integer"),
        (Whole(Part(3.0)), "x.part.count is 3.0; expected an integer"),
        (Whole(Part(True)), "x.part.count is True; expected an integer"),
        (Whole(Part(share=None)), "x.part.share is None; expected a number"),
        (Whole(Part(0)), "x.part.count is 0; expected at least 1"),
        (Whole(part=3), "x.part is 3; expected a Part"),
        (Whole(name=Path("a")), r"x.name is .*Path\('a'\); expected a text"),
        (Whole(quoted=""), "x.quoted is ''; expected an integer"),
        (Whole(on="false"), "x.on is 'false'; expected true or false"),
    ],
)
def test_values_of_another_type_are_refused(whole, message):
    validate_fields(Whole(Part(np.int64(3), share=1), "name", False), "x.")
    with pytest.raises(UserError, match=f"^{message}$"):
        validate_fields(whole, "x.")


def test_length_penalties_are_the_choices_of_their_field():
    assert tuple(LENGTH_PENALTIES) == choices_of(SamplesConfig, "length_penalty_kind")


def test_the_decoder_reads_its_settings_from_the_fields_of_the_same_name():
    config = SamplesConfig(top_k=5, min_p=0.1, num_beams=3, early_stopping="never")
    assert settings(Sampling, config) == Sampling(1.0, 0.8, 5, 0.95, 0.1)
    assert settings(BeamSearch, config) == BeamSearch(3, 1.0, "power", "never")
