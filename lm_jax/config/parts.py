"""The parts of an experiment that belong to no model and to no kind of data."""

import dataclasses

from lm_jax.config.fields import described


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

    every_steps: int = described(500, "Steps between evaluations; 0: only at the end.", minimum=0)
    batch_size: int = described(32, "Windows, pairs or examples in a batch.", minimum=1)
    stride: int = described(
        0, "Tokens between the starts of windows; 0: disjoint windows.", minimum=0
    )
    context_length: int = described(0, "Tokens in a window; 0: the model's.", minimum=0)
    baselines: bool = described(True, "Measure n-gram models and compressors on the same text.")


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
    """The texts that are generated at the end of a run: samples, or the best of a beam search."""

    num_samples: int = described(3, "Sampled texts per prompt.", minimum=0)
    max_new_tokens: int = described(256, "Maximum number of new tokens per text.", minimum=1)
    prompt: str = described("", "The beginning of the text, or its source.")
    temperature: float = described(
        0.8, "Divides the logits; 0: greedy, 1: the model's own distribution.", minimum=0
    )
    top_k: int = described(0, "Draw from the k most probable tokens; 0: all.", minimum=0)
    top_p: float = described(
        0.95, "Draw from the most probable tokens of total mass p; 1: all.", above=0, maximum=1
    )
    min_p: float = described(
        0.0, "Draw from tokens at least p times as probable as the best.", minimum=0, maximum=1
    )
    repetition_penalty: float = described(
        1.0, "Divides the logits of tokens already in the text; 1: off, 1.2: usual.", above=0
    )
    num_beams: int = described(1, "Beams kept at each step; above 1: beam search.", minimum=1)
    num_best: int = described(1, "Beam search: texts per prompt.", minimum=1)
    length_penalty: float = described(
        1.0, "Beam search: 0 ranks by log-probability; above 0 favors longer texts."
    )
    length_penalty_kind: str = described(
        "power",
        "Divisor of the log-probability of n tokens: n^penalty (power), or ((5 + n) / 6)^penalty "
        "(gnmt, Wu et al. 2016, equation 14).",
        choices=("power", "gnmt"),
    )
    early_stopping: str = described(
        "false",
        "When num_beams texts have ended: stop if no beam would score better now (false), stop at "
        "once (true), or stop if no beam can score better at any length (never).",
        choices=("false", "true", "never"),
    )


@dataclasses.dataclass
class DenoisingConfig:
    """What is hidden of a text: objectives masked_lm and span_corruption."""

    fraction: float = 0.15  # of the tokens
    mean_span_length: float = 3.0  # span_corruption
    whole_words: bool = False  # masked_lm: in training; evaluation hides single tokens always
