r"""Loss by parameters in four families, on the bytes of Python's standard library.

  python -m launch.sweep --config=configs/sweeps/architectures.py --plan
  python -m launch.sweep --config=configs/sweeps/architectures.py --sweepdir=sweeps/architectures \
      --processes=2 --together=3
  python -m launch.scaling_law --points=sweeps/architectures/results.csv --law=power \
      --group_column=family --best_per=non_embedding_parameters --where=seed=0 \
      --huber_delta=1 --output=laws/architectures

What Kaplan et al. (2020) show in figure 7, in miniature: six sizes of each family, 3 to 400
thousand parameters without embeddings, see the same 1.5 million bytes. Each is trained with several
learning rates, a factor of two apart, and two sizes with three seeds at their best rate. 114 runs,
1.1e14 FLOPs: an hour of 2 CPU cores.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from configs.sweeps._stdlib import on_stdlib
from lm_jax.config.experiment import Experiment, SamplesConfig, ScheduleConfig
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.transformer.model import TransformerConfig
from lm_jax.sweeps.search_space import grid, ladder

CONTEXT_LENGTH = 128
STEPS, NUM_SIZES = 1500, 6
SMALL, LARGE = 2, 4  # sizes below and from here on: see `factors`
SEEDS = (1, 2)  # of two sizes, with the factor that was best with seed 0
SEEDED = {
    1: {"transformer": 0.5, "lstm": 2.0, "cnn": 1.0, "mlp": 1.0},
    3: {"transformer": 1.0, "lstm": 2.0, "cnn": 1.0, "mlp": 1.0},
}


class Size(NamedTuple):
    """A model, and the second of its learning rates."""

    model: Any
    rate: float


def transformers() -> list[Size]:
    """Of aspect ratio 16, heads 8 wide."""
    shape = TransformerConfig(context_length=CONTEXT_LENGTH, positions="rotary")
    models = ladder(shape, (16, 24, 32, 48, 64, 80), aspect_ratio=16, head_width=8).values()
    return [Size(model, 0.6 / model.d_model) for model in models]


def lstms() -> list[Size]:
    """Two layers; the embedding is the output, too, as in Transformers and CNNs."""
    shape = RecurrentConfig(context_length=CONTEXT_LENGTH, num_layers=2, tie_embeddings=True)
    widths = (14, 30, 40, 72, 112, 156)
    return [Size(dataclasses.replace(shape, d_hidden=d), 0.65 * d**-0.75) for d in widths]


def cnns() -> list[Size]:
    """Seven dilated blocks, which read 128 bytes as the Transformers do."""
    shape = CausalCNNConfig(context_length=CONTEXT_LENGTH, num_layers=7, dilation_cycle=7)
    widths = (10, 20, 26, 48, 76, 106)
    return [Size(dataclasses.replace(shape, d_model=d), 0.4 / d) for d in widths]


def mlps() -> list[Size]:
    """One hidden layer over the last eight bytes; the output is no embedding, so it counts."""
    shape = MLPConfig(context_length=CONTEXT_LENGTH, window=8)
    widths = ((4, 12), (8, 45), (12, 70), (20, 200), (32, 390), (48, 600))
    return [
        Size(dataclasses.replace(shape, d_embedding=e, d_hidden=d), 0.6 * d**-0.75)
        for e, d in widths
    ]


def factors(family: str, index: int) -> list[float]:
    """What the rate of a size is multiplied by: the best, as it turned out, is not at an end."""
    found = [0.5, 1.0, 2.0]
    if index < SMALL:
        found.insert(0, 0.25)
    if index < LARGE or family == "lstm":
        found.append(4.0)
    return found


def get_sweep() -> dict[str, Experiment]:
    """Each size of each family with its learning rates, small sizes first; then the other seeds."""
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
