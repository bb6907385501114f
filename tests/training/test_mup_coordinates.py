"""Coordinate checks of muP: outputs that training moves as much at every width."""

import math

import pytest

from lm_jax.config.experiment import OptimizerConfig, ScheduleConfig
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.scale_width import of_width
from lm_jax.models.transformer.config import TransformerConfig
from tests.models.single_models import compiled, run


def slope(config, in_mup: bool, optimizer: str, rate: float) -> float:
    """The exponent of the width with which logits change, from the given one to 8 times it."""
    changes, base = [], getattr(config, config.widths()[0])
    for width in (base, 8 * base):
        built = compiled(
            of_width(config, width),
            mup_base_width=base if in_mup else 0,
            optimizer=OptimizerConfig(optimizer, weight_decay=0.0),
            schedule=ScheduleConfig("constant", rate, warmup_steps=0),
        )
        changes.append(run(built)[1])
    return math.log(changes[1] / changes[0]) / math.log(8)


COORDINATES = {
    "transformer": TransformerConfig(
        16, 16, num_layers=2, d_model=32, num_heads=2, tie_embeddings=False
    ),
    "tied": TransformerConfig(
        16,
        16,
        num_layers=2,
        d_model=32,
        num_heads=2,
        head_dim=12,
        norm_order="both",
        qk_norm="head",
        positions="rotary",
    ),
    "recurrent": RecurrentConfig(16, 16, num_layers=1, d_hidden=64),  # narrower ones are noisier
    "mlp": MLPConfig(16, 16, window=4, d_embedding=32, d_hidden=32, num_layers=2),
    "causal_cnn": CausalCNNConfig(16, 16, num_layers=2, d_model=32),
}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer, rate", [("adamw", 2**-8), ("sgd", 2**-3), ("muon", 2**-7)])
@pytest.mark.parametrize("name", list(COORDINATES))
def test_logits_change_as_much_at_every_width(name, optimizer, rate):
    """The coordinate check of Yang et al. 2022, appendix D.1."""
    assert abs(slope(COORDINATES[name], True, optimizer, rate)) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COORDINATES))
def test_in_the_standard_parametrisation_wider_logits_change_more(name):
    assert slope(COORDINATES[name], False, "adamw", 2**-8) > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["lion", "adafactor"])
def test_logits_of_an_mlp_change_as_much_with_other_optimizers(optimizer):
    """From 128 on, where Adafactor's estimates are factored (Shazeer & Stern 2018)."""
    wide = of_width(COORDINATES["mlp"], 128)
    assert abs(slope(wide, True, optimizer, 2**-8)) < 0.2
    assert slope(wide, False, optimizer, 2**-8) > 0.4


def test_logits_of_an_mlp_change_as_much_at_every_width():
    assert abs(slope(COORDINATES["mlp"], True, "adamw", 2**-8)) < 0.2
    assert slope(COORDINATES["mlp"], False, "adamw", 2**-8) > 0.4
