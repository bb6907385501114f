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


class GPTBlock(nn.Module):
    """Pre-norm attention and feed-forward with PyTorch's fused attention."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        width, self.heads, bias = config.d_model, config.num_heads, config.use_bias
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.attention_norm = nn.LayerNorm(width, bias=bias)
        self.feed_forward_norm = nn.LayerNorm(width, bias=bias)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.output = nn.Linear(width, width, bias=bias)
        self.up = nn.Linear(width, config.feed_forward_width, bias=bias)
        self.down = nn.Linear(config.feed_forward_width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        heads = self.qkv(self.attention_norm(x)).view(batch, time, 3, self.heads, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(y.transpose(1, 2).reshape(batch, time, width))
        hidden = F.gelu(self.up(self.feed_forward_norm(x)), approximate=self.approximate)
        return x + self.down(hidden)


class GPT(nn.Module):
    """GPT-2 as in nanoGPT: learned positions, LayerNorm, GELU, tied embeddings."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context_length, config.d_model)
        self.blocks = nn.ModuleList(GPTBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.d_model, bias=config.use_bias)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean cross-entropy in nats per token; inputs and targets are [B, T]."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        x = self.embedding(inputs) + self.positions(positions)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.embedding.weight)
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
    TransformerConfig: Counterpart(GPT, _gpt_choices),
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
    inside = {p for m in model.modules() if isinstance(m, GPTBlock) for p in m.parameters()}
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
