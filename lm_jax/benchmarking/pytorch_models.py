"""The same models and train steps in PyTorch, as a baseline; needs the `torch` extra."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_jax.benchmarking.interleaved_timing import Work
from lm_jax.config.experiment import Experiment, OptimizerConfig
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.objectives import objective_of
from lm_jax.objectives.interface import model_loss


def _norm(config: TransformerConfig) -> nn.Module:
    width, epsilon = config.d_model, config.norm_epsilon
    if config.norm == "rms_norm":
        return nn.RMSNorm(width, eps=epsilon)
    return nn.LayerNorm(width, eps=epsilon, bias=config.use_bias)


class FeedForward(nn.Module):
    """Two products around GELU, or three in SwiGLU."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        width, hidden, bias = config.d_model, config.feed_forward_width, config.use_bias
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.gate = nn.Linear(width, hidden, bias) if config.activation == "swiglu" else None
        self.up = nn.Linear(width, hidden, bias)
        self.down = nn.Linear(hidden, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(F.gelu(self.up(x), approximate=self.approximate))
        return self.down(F.silu(self.gate(x)) * self.up(x))


class DecoderBlock(nn.Module):
    """Pre-norm attention and feed-forward with PyTorch's fused attention."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        width, bias = config.d_model, config.use_bias
        self.head_width = width // config.num_heads
        self.kv_heads = config.kv_heads
        self.attention_norm, self.feed_forward_norm = _norm(config), _norm(config)
        self.qkv = nn.Linear(width, width + 2 * self.kv_heads * self.head_width, bias)
        self.output = nn.Linear(width, width, bias)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        batch, time, width = x.shape
        heads = self.qkv(self.attention_norm(x)).view(batch, time, -1, self.head_width)
        sizes = [width // self.head_width, self.kv_heads, self.kv_heads]
        q, k, v = (part.transpose(1, 2) for part in heads.split(sizes, dim=2))
        if rotation:
            q, k = _rotate(q, *rotation), _rotate(k, *rotation)
        grouped = sizes[0] != self.kv_heads
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        x = x + self.output(y.transpose(1, 2).reshape(batch, time, width))
        return x + self.feed_forward(self.feed_forward_norm(x))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates feature i of a head with feature i + k/2, in float32; x is [b, h, t, k]."""
    left, right = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-right, left), dim=-1) * sin).to(x.dtype)


class Decoder(nn.Module):
    """GPT-2 as in nanoGPT, or with RMSNorm, SwiGLU, rotary positions and grouped heads (Llama)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        width = config.d_model
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.num_layers))
        self.norm = _norm(config)
        self.head = None if config.tie_embeddings else nn.Linear(width, config.vocab_size, False)
        self.positions: nn.Embedding | None = None
        if config.positions == "learned":
            self.positions = nn.Embedding(config.context_length, width)
        else:
            half = width // config.num_heads // 2
            frequencies = config.rotary_base ** (-torch.arange(half) / half)
            angles = torch.outer(torch.arange(config.context_length), frequencies).repeat(1, 2)
            self.register_buffer("cos", angles.cos(), persistent=False)
            self.register_buffer("sin", angles.sin(), persistent=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean cross-entropy in nats per token; inputs and targets are [B, T]."""
        x, time = self.embedding(inputs), inputs.shape[1]
        rotation = None
        if self.positions is None:
            rotation = self.cos[:time], self.sin[:time]
        else:
            x = x + self.positions(torch.arange(time, device=inputs.device))
        for block in self.blocks:
            x = block(x, rotation)
        weight = self.embedding.weight if self.head is None else self.head.weight
        logits = F.linear(self.norm(x), weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class LSTM(nn.Module):
    """An embedding, nn.LSTM (cuDNN on GPUs) and an output layer, time-major throughout."""

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_width)
        self.lstm = nn.LSTM(config.embedding_width, config.d_hidden, config.num_layers)
        self.output = nn.Linear(config.d_hidden, config.vocab_size)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean cross-entropy in nats per token; inputs and targets are [B, T]."""
        hidden, _ = self.lstm(self.embedding(inputs.T))
        return F.cross_entropy(self.output(hidden).flatten(0, 1), targets.T.flatten())


def _hugging_face_gpt2(config: TransformerConfig) -> nn.Module:
    """Returns the GPT-2 of transformers with random weights."""
    import transformers

    shape = transformers.GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.context_length,
        n_embd=config.d_model,
        n_layer=config.num_layers,
        n_head=config.num_heads,
        n_inner=config.feed_forward_width,
        activation_function="gelu_new" if config.activation == "gelu_tanh" else "gelu",
        eos_token_id=None,
        bos_token_id=None,
    )
    return transformers.GPT2LMHeadModel(shape)


class Counterpart(NamedTuple):
    """A model of PyTorch, and the choices for which it does the same work as ours."""

    build: Callable[[Any], nn.Module]
    choices: Callable[[Any], Mapping[str, tuple[Any, ...]]]
    """(configuration) -> the values of each field that the model has."""


def _gpt_choices(config: TransformerConfig) -> dict[str, tuple[Any, ...]]:
    return {
        "activation": ("gelu", "gelu_tanh"),
        "norm": ("layer_norm",),
        "norm_order": ("pre",),
        "positions": ("learned",),
        "tie_embeddings": (True,),
        "kv_heads": (config.num_heads,),
        "head_dim": (0, config.d_model // config.num_heads),
        "parallel_blocks": (False,),
        "qkv_bias": (False, config.use_bias),
        "qk_norm": ("none",),
        "attention_scale": (0,),
        "attention_soft_cap": (0,),
        "sliding_window": (0,),
        "embedding_norm": (False,),
        "scale_embeddings": (False,),
        "logit_soft_cap": (0,),
        "logit_scale": (1,),
        "dropout_rate": (0,),
    }


def _decoder_choices(config: TransformerConfig) -> dict[str, tuple[Any, ...]]:
    """Returns what GPT-2 may choose, and Llama."""
    divides = config.num_heads % config.kv_heads == 0
    return _gpt_choices(config) | {
        "activation": ("gelu", "gelu_tanh", "swiglu"),
        "norm": ("layer_norm", "rms_norm"),
        "positions": ("learned", "rotary"),
        "rotary_fraction": (1,),
        "rotary_scaling": ("none",),
        "tie_embeddings": (True, False),
        "kv_heads": (config.kv_heads,) if divides else (),
        "num_experts": (0,),
    }


def _lstm_choices(config: RecurrentConfig) -> dict[str, tuple[Any, ...]]:
    return {
        "cell": ("lstm",),
        "layer_norm": (False,),
        "tie_embeddings": (False,),
        "recurrent_dropout_rate": (0,),
        "carry_state": (False,),
        "dropout_rate": (0,),
    }


# By the configuration of our model.
COUNTERPARTS: dict[type, Counterpart] = {
    TransformerConfig: Counterpart(Decoder, _decoder_choices),
    RecurrentConfig: Counterpart(LSTM, _lstm_choices),
}
HUGGING_FACE: dict[type, Counterpart] = {
    TransformerConfig: Counterpart(
        _hugging_face_gpt2, lambda config: _gpt_choices(config) | {"use_bias": (True,)}
    )
}
# Optimizer -> the weight decay of its configuration.
_WEIGHT_DECAY: dict[str, Callable[[OptimizerConfig], float]] = {
    "adamw": lambda config: config.weight_decay,
    "adam": lambda config: 0.0,
}


def unsupported_choice(
    experiment: Experiment, counterparts: Mapping[type, Counterpart] = COUNTERPARTS
) -> str | None:
    """Returns a choice of the experiment that these models lack; None if the work is the same."""
    config, objective = experiment.model, objective_of(experiment)
    if type(config) not in counterparts:
        return f"a {type(config).__name__}"
    for name, accepted in counterparts[type(config)].choices(config).items():
        if (given := getattr(config, name)) not in accepted:
            return f"model.{name} {given}"
    if experiment.mup_base_width:
        return f"mup_base_width {experiment.mup_base_width}"
    is_next_token = objective.in_windows and objective.loss is model_loss
    if not is_next_token or experiment.optimizer.name not in _WEIGHT_DECAY:
        return f"{experiment.objective} by {experiment.optimizer.name}"
    return None


class Trainer:
    """Fused Adam or AdamW with global-norm clipping and gradient accumulation."""

    def __init__(self, model: nn.Module, experiment: Experiment, half: bool):
        self.model, self.half = model, half
        self.parts = experiment.training.gradient_accumulation_steps
        self.clip_norm = experiment.optimizer.clip_norm
        self.parameters = list(model.parameters())
        self.optimizer = _adam(model, experiment.optimizer)

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        """Takes one optimizer step on tokens [B, T]."""
        pairs = zip(inputs.chunk(self.parts), targets.chunk(self.parts), strict=True)
        for x, y in pairs:
            with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.half):
                loss = self.model(x, y) / self.parts
            loss.backward()
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _adam(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Returns Adam with weight decay on the matrices of the blocks, as ours."""
    decay = _WEIGHT_DECAY[config.name](config)
    inside = {p for m in model.modules() if isinstance(m, DecoderBlock) for p in m.parameters()}
    matrices = [p for p in model.parameters() if p in inside and p.dim() == 2]
    rest = [p for p in model.parameters() if not (p in inside and p.dim() == 2)]
    groups = [{"params": rest, "weight_decay": 0.0}]
    groups += [{"params": matrices, "weight_decay": decay}] if matrices else []
    return torch.optim.AdamW(
        groups, lr=1e-3, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
    )


def build_model(experiment: Experiment, mode: str, device: str) -> nn.Module:
    """Returns the model of an experiment, `eager` or under torch.compile (`compile`)."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model = COUNTERPARTS[type(experiment.model)].build(experiment.model).to(device)
    return torch.compile(model) if mode == "compile" else model  # type: ignore[return-value]


def training_work(
    experiment: Experiment, batches: Mapping[str, np.ndarray], *, mode: str, device: str, half: bool
) -> Work:
    """Returns K optimizer steps on batches [K, B, T]; computes in bfloat16 if `half`."""
    trainer = Trainer(build_model(experiment, mode, device), experiment, half)
    inputs, targets = _tokens(batches, device)

    def work() -> None:
        for x, y in zip(inputs, targets, strict=True):
            trainer.step(x, y)
        if device == "cuda":
            torch.cuda.synchronize()

    return work


def evaluation_work(
    experiment: Experiment, batches: Mapping[str, np.ndarray], *, mode: str, device: str, half: bool
) -> Work:
    """Returns the evaluation of the loss on batches [K, B, T], without gradients."""
    model = build_model(experiment, mode, device)
    inputs, targets = _tokens(batches, device)

    def work() -> None:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
            losses = [model(x, y) for x, y in zip(inputs, targets, strict=True)]
            torch.stack(losses).mean().item()

    return work


def _tokens(batches: Mapping[str, np.ndarray], device: str) -> tuple[Tensor, Tensor]:
    inputs, targets = (
        torch.from_numpy(batches[name].astype(np.int64)).to(device)
        for name in ("inputs", "targets")
    )
    return inputs, targets
