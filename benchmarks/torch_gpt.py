"""The same decoder-only Transformer in PyTorch, as a peer to measure against (optional extra)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_jax.models.transformer import TransformerConfig


class Block(nn.Module):
    """Pre-norm attention and feed-forward, with PyTorch's fused attention."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        width, self.heads = config.d_model, config.num_heads
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up = nn.Linear(width, config.feed_forward_width)
        self.down = nn.Linear(config.feed_forward_width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        heads = self.qkv(self.attention_norm(x)).view(batch, time, 3, self.heads, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(y.transpose(1, 2).reshape(batch, time, width))
        hidden = F.gelu(self.up(self.feed_forward_norm(x)), approximate=self.approximate)
        return x + self.down(hidden)


class GPT(nn.Module):
    """Learned positions, LayerNorm, GELU, tied embeddings: GPT-2's choices, as nanoGPT has them."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context_length, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.d_model)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy in nats."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        x = self.embedding(inputs) + self.positions(positions)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Trainer:
    """AdamW (fused) with clipping by the global norm, one call a step."""

    def __init__(self, config: TransformerConfig, learning_rate: float = 1e-3):
        torch.manual_seed(0)
        self.model = GPT(config)
        matrices = [p for p in self.model.blocks.parameters() if p.dim() == 2]
        known = set(map(id, matrices))
        rest = [p for p in self.model.parameters() if id(p) not in known]
        groups = [
            {"params": matrices, "weight_decay": 0.1},
            {"params": rest, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        """One optimizer step; returns its loss."""
        loss = self.model(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()
