import dataclasses

import pytest

from lm_jax.benchmarking import mfu
from lm_jax.config.presets import preset
from lm_jax.costs.accelerators import ACCELERATORS, name_of
from lm_jax.costs.model_flops import formula
from lm_jax.models.recurrent.language_model import RecurrentConfig
from tests.benchmarking.programs import small


def test_palms_formula_for_gpt2_by_hand():
    n = 50_257 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768  # no learned positions
    assert formula(preset("gpt2_small")).training == 6 * n + 12 * 12 * 768 * 1024


def test_an_embedding_that_is_only_looked_up_does_not_count():
    tied = preset("gpt2_small")
    untied = dataclasses.replace(tied, tie_embeddings=False)
    assert formula(untied) == formula(tied)


def test_half_a_million_gpt2_tokens_per_second_are_43_percent_of_an_h100():
    flops = formula(preset("gpt2_small")).training
    share = mfu.utilization(500_000 * flops, 1.0, ACCELERATORS["h100"].peak_flops)
    assert share == pytest.approx(0.43, abs=0.005)
    assert mfu.utilization(8e12, 2.0, 1e12, devices=8) == 0.5


def test_other_models_count_the_products_of_both_passes():
    lstm = RecurrentConfig(50, context_length=16, num_layers=1, d_hidden=8)
    counted_as, flops = mfu.flops_per_target(small(model=lstm), targets=64)
    # A token's product with the table of embeddings (50 rows for 64 tokens), with the state, and
    # with the output.
    assert counted_as == "products of both passes"
    assert flops == 3 * 2 * (50 / 64 * 8 * 32 + 8 * 32 + 8 * 50)


def test_matrix_products_report_their_flops():
    work, flops = mfu.matrix_products(small(), size=16, count=3)
    work()
    assert flops == 3 * 2 * 16**3


def test_a_cpu_has_no_published_peak_and_accelerator_boards_differ():
    assert mfu.published_peak(small()) is None
    assert name_of("NVIDIA H100 80GB HBM3") == "h100" and name_of("NVIDIA H100 PCIe") is None
