"""The parts of an experiment that belong to no model and to no kind of data."""

import dataclasses

from lm_jax.fields import described


@dataclasses.dataclass
class OptimizerConfig:
    """An optimizer; it ignores the fields that it does not have."""

    name: str = described(
        "adamw", "The update rule.", choices_in="lm_jax.training.optimizers:OPTIMIZERS"
    )
    beta1: float = described(
        0.9, "Decay of the first moment; sgd: the momentum.", minimum=0, below=1
    )
    beta2: float = described(0.95, "Decay of the second moment.", minimum=0, below=1)
    epsilon: float = described(1e-8, "Added to the denominator of an update.", minimum=0)
    weight_decay: float = described(
        0.1, "Decay of matrices only, not of norms, biases or embeddings.", minimum=0
    )
    clip_norm: float = described(1.0, "Maximum global norm of the gradient; 0: off.", minimum=0)
    clip_update: float = described(
        0.0,
        "Maximum root mean square of the update of an array (of each layer) over the learning "
        "rate; 0: off, 1: usual.",
        minimum=0,
    )
    skip_above: float = described(
        0.0,
        "Skip an update whose loss or gradient norm is more than this many times its median over "
        "the last 128; 0: skip only what is not finite.",
        minimum=0,
    )
    loss_scaling: bool = described(
        True,
        "compute_dtype=float16: scale the loss where it is differentiated, as high as gradients "
        "stay finite.",
    )
    adam_learning_rate_ratio: float = described(
        0.1, "muon: AdamW's learning rate for all but matrices, over the peak.", minimum=0
    )


@dataclasses.dataclass
class ScheduleConfig:
    """The learning rate as a function of the step."""

    name: str = described(
        "cosine", "Its shape after the warm-up.", choices_in="lm_jax.training.schedules:SCHEDULES"
    )
    peak_learning_rate: float = described(1e-3, "The largest learning rate.", minimum=0)
    warmup_steps: int = described(100, "Steps of linear warmup.", minimum=0)
    final_fraction: float = described(
        0.1, "linear, cosine, wsd: last learning rate over the peak.", minimum=0, maximum=1
    )
    decay_fraction: float = described(
        0.2, "wsd: share of the steps that the final decay takes.", minimum=0, maximum=1
    )


@dataclasses.dataclass
class TrainingConfig:
    """The number of steps, the size of a batch, and the steps in a dispatch."""

    num_steps: int = described(1000, "Optimizer steps.", minimum=1)
    batch_size: int = described(32, "Sequences per step, over all devices.", minimum=1)
    batch_size_tokens: int = described(
        0, "Tokens per step, instead of batch_size; 0: off.", minimum=0
    )
    gradient_accumulation_steps: int = described(
        1, "Parts in which a batch is computed.", minimum=1
    )
    label_smoothing: float = described(
        0.0, "Share of a target that is uniform, in training only.", minimum=0, below=1
    )
    z_loss: float = described(
        0.0,
        "Coefficient of the mean squared log-normalizer of the logits in the trained loss; 0: off, "
        "1e-4: usual.",
        minimum=0,
    )
    steps_per_call: int = described(
        10, "Optimizer steps in one dispatch to the devices.", minimum=1
    )
    log_every_steps: int = described(10, "Steps between two lines of the log.", minimum=1)
    stop_after_no_improvement: int = described(
        0,
        "Evaluations without a lower validation cross-entropy after which the run ends; 0: off.",
        minimum=0,
    )
    stop_after_skipped: int = described(
        10, "Skipped updates in a row after which the run stops.", minimum=1
    )


@dataclasses.dataclass
class EvaluationConfig:
    """How the validation split is measured."""

    every_steps: int = described(500, "Steps between evaluations; 0: only at the end.", minimum=0)
    batch_size: int = described(32, "Windows, pairs or examples in a batch.", minimum=1)
    stride: int = described(
        0, "Tokens between the starts of windows; 0: disjoint windows.", minimum=0
    )
    context_length: int = described(0, "Tokens in a window; 0: the model's.", minimum=0)
    windows: str = described(
        "documents",
        "What is predicted: each token and the end of a document (documents), all tokens but the "
        "first (bare), or each token but no end, with a full last window (rolling: as "
        "lm-evaluation-harness).",
        choices_in="lm_jax.data.text.rows:WINDOWS",
    )
    max_tokens: int = described(
        0,
        "Tokens of plain text that a run measures itself on: whole documents, always the same; 0: "
        "up to 262,144, fewer where that would take more than a tenth of the training.",
        minimum=0,
    )
    baselines: bool = described(True, "Measure n-gram models and compressors on the same text.")


@dataclasses.dataclass
class CheckpointConfig:
    """When the state is saved, and which checkpoints are kept."""

    every_steps: int = described(500, "Steps between checkpoints; 0: only at the end.", minimum=0)
    keep_last: int = described(2, "Number of last checkpoints to keep.", minimum=1)
    keep_best: int = described(
        1, "Number of checkpoints of lowest validation cross-entropy to keep.", minimum=0
    )


@dataclasses.dataclass
class FineTuningConfig:
    """The trained run that a run starts from, if any."""

    workdir: str = described(
        "", "The run whose parameters to start from, except those of another shape."
    )
    parameters: str = described(
        "all",
        "What is trained: all; the head, on fixed features; or lora: the head, if any, and "
        "low-rank updates of the kernels that lora_targets names.",
        choices=("all", "head", "lora"),
    )
    lora_rank: int = described(8, "lora: rank of the updates.", minimum=1)
    lora_alpha: float = described(16.0, "lora: an update counts alpha / rank times.", above=0)
    lora_targets: str = described(
        "*attention/*/kernel,*feed_forward/*/kernel",
        "lora: patterns of the paths of kernels, with commas between them.",
    )


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
    """How a text is corrupted, for the objectives masked_lm and span_corruption."""

    fraction: float = described(0.15, "Share of the tokens that is hidden.", above=0, below=1)
    mean_span_length: float = described(
        3.0, "span_corruption: mean number of tokens in a span.", minimum=1
    )
    whole_words: bool = described(
        False, "masked_lm: hide whole words in training; evaluation hides single tokens."
    )
