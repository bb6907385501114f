"""All that a configuration can say: one tree of dataclasses, and its JSON.

The parts of a model and of the data are declared beside the code that reads them
(`lm_jax/models/*.py`, `lm_jax/data/*.py`); every other part is declared here. Which of it
can run, `experiment_checks` says.
"""

import dataclasses
from typing import Any

from lm_jax.data.config import DataConfig
from lm_jax.models.transformer.model import TransformerConfig
from lm_jax.parallel import mesh as meshes


@dataclasses.dataclass
class OptimizerConfig:
    """One of optax's optimizers and what it needs; a field that it does not have is ignored."""

    name: str = "adamw"  # adamw, adam, sgd, adafactor, lion, muon
    beta1: float = 0.9  # sgd: the momentum
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1  # matrices only: not norms, biases or embeddings
    clip_norm: float = 1.0  # global norm of the gradient; 0: off
    adam_learning_rate_ratio: float = 0.1  # muon: AdamW's rate for all but matrices, over the peak


@dataclasses.dataclass
class ScheduleConfig:
    """The learning rate as a function of the step."""

    name: str = "cosine"  # constant, linear, cosine, rsqrt, wsd
    peak_learning_rate: float = 1e-3
    warmup_steps: int = 100
    final_fraction: float = 0.1  # linear, cosine, wsd: last learning rate over the peak
    decay_fraction: float = 0.2  # wsd: share of the steps that the final decay takes


@dataclasses.dataclass
class TrainingConfig:
    """How long, how many at once, and how many steps a dispatch."""

    num_steps: int = 1000
    batch_size: int = 32  # sequences a step, over all devices
    batch_size_tokens: int = 0  # when not 0, sets batch_size = batch_size_tokens / context_length
    gradient_accumulation_steps: int = 1
    label_smoothing: float = 0.0  # share of a target that is uniform; evaluation knows none
    steps_per_call: int = 10  # optimizer steps in one dispatch to the devices
    log_every_steps: int = 10


@dataclasses.dataclass
class EvaluationConfig:
    """How the validation split is measured."""

    every_steps: int = 500  # 0: only at the end
    batch_size: int = 32
    stride: int = 0  # 0: disjoint windows; else windows start every `stride` tokens
    context_length: int = 0  # of these windows; 0: the model's
    baselines: bool = True  # what counting and compressing cost on the same text


@dataclasses.dataclass
class CheckpointConfig:
    """When the state is saved, and which checkpoints stay."""

    every_steps: int = 500  # 0: only at the end
    keep_last: int = 2
    keep_best: int = 1  # by validation cross-entropy


@dataclasses.dataclass
class FineTuningConfig:
    """What a run begins with, when not with fresh parameters."""

    workdir: str = ""  # another run's: its parameters, but for those whose shapes differ
    parameters: str = "all"  # all, head: what is trained; the rest then only extracts features


@dataclasses.dataclass
class SamplesConfig:
    """What is generated at the end of a run: samples, or by several beams the best texts."""

    num_samples: int = 3
    max_new_tokens: int = 256
    prompt: str = ""
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    # Above 1: beam search (lm_jax/generation/beam_search.py), and nothing is sampled.
    num_beams: int = 1
    num_best: int = 1  # texts of each prompt
    length_penalty: float = 1.0
    length_penalty_kind: str = "power"
    early_stopping: str = "false"


@dataclasses.dataclass
class DenoisingConfig:
    """What is hidden of a text: objectives masked_lm and span_corruption."""

    fraction: float = 0.15  # of the tokens
    mean_span_length: float = 3.0  # span_corruption
    whole_words: bool = False  # masked_lm: in training; evaluation hides single tokens always


@dataclasses.dataclass
class Experiment:
    """One run, whole: what `configs/*.py` return and `config.json` records."""

    objective: str = "causal_lm"  # a key of lm_jax.objectives.OBJECTIVES, or file.py:ATTRIBUTE
    model: Any = dataclasses.field(default_factory=TransformerConfig)  # a family's configuration
    # 0: the standard parametrisation. Else muP (`lm_jax.training.mup`), which is the same for a
    # model of this d_model (or d_hidden, or d_embedding: the first of its `widths`).
    mup_base_width: int = 0
    data: Any = dataclasses.field(default_factory=DataConfig)  # a class of lm_jax.data.config
    denoising: DenoisingConfig = dataclasses.field(default_factory=DenoisingConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    # Devices on each axis, as in data:2,fsdp:4 (data, fsdp, tensor, sequence; -1: all the rest), or
    # auto: see `lm_jax.parallel.mesh.automatic`.
    mesh: str = meshes.AUTO
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    fine_tuning: FineTuningConfig = dataclasses.field(default_factory=FineTuningConfig)
    samples: SamplesConfig = dataclasses.field(default_factory=SamplesConfig)
    seed: int = 0
    compute_dtype: str = "auto"  # auto (bfloat16 on accelerators, float32 on CPU), or one of these
    tensorboard: bool = True


def field(config: Any, path: str) -> Any:
    """The value at a dotted path, such as `model.d_model`."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def sequences_per_step(experiment: Experiment) -> int:
    """The global batch size in sequences (or images), whichever way the configuration gives it."""
    training = experiment.training
    if not training.batch_size_tokens:
        return training.batch_size
    return training.batch_size_tokens // experiment.model.context_length
