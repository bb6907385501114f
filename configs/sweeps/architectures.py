r"""Loss by parameters in four families, on the bytes of Python's standard library.

  python -m launch.sweep --config=configs/sweeps/architectures.py --plan
  python -m launch.sweep --config=configs/sweeps/architectures.py --sweepdir=sweeps/architectures \
      --processes=2 --together=3
  python -m launch.scaling_law --points=sweeps/architectures/results.csv --law=power \
      --group_column=family --best_per=non_embedding_parameters --where=seed=0 \
      --huber_delta=1 --output=laws/architectures

Figure 7 of Kaplan et al. (2020) in miniature: six sizes of each family, 3 to 400 thousand
parameters without embeddings, train on the same 1.5 million bytes. Each size has several learning
rates, a factor of two apart; two sizes have three seeds at their best rate. 114 runs, 1.1e14 FLOPs:
an hour of 2 CPU cores.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from configs.sweeps._stdlib import on_stdlib
from lm_jax.config.experiment import Experiment, SamplesConfig, ScheduleConfig
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.sweeps.search_space import grid, ladder

CONTEXT_LENGTH = 128
STEPS, NUM_SIZES = 1500, 6
SMALL, LARGE = 2, 4  # bounds of the size index in `factors`
SEEDS = (1, 2)  # further seeds of two sizes, at the best factor of seed 0
SEEDED = {
    1: {"transformer": 0.5, "lstm": 2.0, "cnn": 1.0, "mlp": 1.0},
    3: {"transformer": 1.0, "lstm": 2.0, "cnn": 1.0, "mlp": 1.0},
}


class Size(NamedTuple):
    """A model, and the second of its learning rates."""

    model: Any
    rate: float


def transformers() -> list[Size]:
    """Returns Transformers of aspect ratio 16 with heads of width 8."""
    shape = TransformerConfig(context_length=CONTEXT_LENGTH, positions="rotary")
    models = ladder(shape, (16, 24, 32, 48, 64, 80), aspect_ratio=16, head_width=8).values()
    return [Size(model, 0.6 / model.d_model) for model in models]


def lstms() -> list[Size]:
    """Returns two-layer LSTMs with tied embeddings, as the Transformers and CNNs have."""
    shape = RecurrentConfig(context_length=CONTEXT_LENGTH, num_layers=2, tie_embeddings=True)
    widths = (14, 30, 40, 72, 112, 156)
    return [Size(dataclasses.replace(shape, d_hidden=d), 0.65 * d**-0.75) for d in widths]


def cnns() -> list[Size]:
    """Returns CNNs of seven dilated blocks, which read 128 bytes as the Transformers do."""
    shape = CausalCNNConfig(context_length=CONTEXT_LENGTH, num_layers=7, dilation_cycle=7)
    widths = (10, 20, 26, 48, 76, 106)
    return [Size(dataclasses.replace(shape, d_model=d), 0.4 / d) for d in widths]


def mlps() -> list[Size]:
    """Returns MLPs over the last eight bytes; their output matrix counts as a parameter."""
    shape = MLPConfig(context_length=CONTEXT_LENGTH, window=8)
    widths = ((4, 12), (8, 45), (12, 70), (20, 200), (32, 390), (48, 600))
    return [
        Size(dataclasses.replace(shape, d_embedding=e, d_hidden=d), 0.6 * d**-0.75)
        for e, d in widths
    ]


def factors(family: str, index: int) -> list[float]:
    """Returns the multiples of a size's rate to try; the best measured one is at neither end."""
    found = [0.5, 1.0, 2.0]
    if index < SMALL:
        found.insert(0, 0.25)
    if index < LARGE or family == "lstm":
        found.append(4.0)
    return found


def get_sweep() -> dict[str, Experiment]:
    """Returns each size of each family with its rates, small sizes first; then other seeds."""
    base = on_stdlib()
    base.training.num_steps = STEPS
    base.schedule = ScheduleConfig(warmup_steps=STEPS // 10)
    base.samples = SamplesConfig(num_samples=0)
    families = {"transformer": transformers(), "lstm": lstms(), "cnn": cnns(), "mlp": mlps()}

    def with_rates(
        family: str, index: int, multiples: Sequence[float], **fields: Any
    ) -> dict[str, Experiment]:
        size = families[family][index]
        rates = [float(f"{size.rate * multiple:.2g}") for multiple in multiples]
        model = {f"{family}{index}": size.model}
        return grid(base, {"model": model, **fields, "schedule.peak_learning_rate": rates})

    runs: dict[str, Experiment] = {}
    for index in range(NUM_SIZES):
        for family in families:
            runs |= with_rates(family, index, factors(family, index))
    for index, best in SEEDED.items():
        for family, factor in best.items():
            runs |= with_rates(family, index, [factor], seed=SEEDS)
    return runs
