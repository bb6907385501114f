"""Published models by name: Transformers, and image classifiers for ImageNet.

The functions import their configurations: programs list the names in --help, without JAX.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from lm_jax.errors import UserError

if TYPE_CHECKING:
    from lm_jax.models.convnet.model import ConvNetConfig
    from lm_jax.models.transformer.config import (
        EncoderConfig,
        EncoderDecoderConfig,
        TransformerConfig,
    )

Config: TypeAlias = "TransformerConfig | EncoderConfig | EncoderDecoderConfig | ConvNetConfig"


def _gpt2(num_layers: int, d_model: int, num_heads: int) -> "TransformerConfig":
    """Returns GPT-2 of a size (Radford et al. 2019, Table 2)."""
    from lm_jax.models.transformer.config import TransformerConfig

    return TransformerConfig(
        vocab_size=50_257,
        context_length=1024,
        num_layers=num_layers,
        d_model=d_model,
        num_heads=num_heads,
    )


def _gpt3(num_layers: int, d_model: int, num_heads: int) -> "TransformerConfig":
    """Returns GPT-3 of a size, dense attention in all layers (Brown et al. 2020, Table 2.1)."""
    config = _gpt2(num_layers, d_model, num_heads)
    return dataclasses.replace(config, context_length=2048, scan_layers=True)


def _llama(vocab_size: int, context_length: int, **shape: Any) -> "TransformerConfig":
    """Returns Llama (Touvron et al. 2023): pre-norm with RMSNorm, SwiGLU, rotary, no biases."""
    from lm_jax.models.transformer.config import TransformerConfig

    config = TransformerConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        norm="rms_norm",
        activation="swiglu",
        positions="rotary",
        tie_embeddings=False,
        use_bias=False,
        scan_layers=True,
    )
    return dataclasses.replace(config, **shape)


def _bert_base() -> "EncoderConfig":
    """Returns BERT (Devlin et al. 2019), uncased, with a head for masked tokens and no pooler."""
    from lm_jax.models.transformer.config import EncoderConfig

    return EncoderConfig(
        vocab_size=30_522,
        context_length=512,
        num_layers=12,
        d_model=768,
        num_heads=12,
        num_segment_types=2,
        pooling="first",
    )


def _t5_small() -> "EncoderDecoderConfig":
    """Returns T5 (Raffel et al. 2020, section 3.7), the checkpoint of version 1.0."""
    from lm_jax.models.transformer.config import EncoderDecoderConfig

    return EncoderDecoderConfig(
        vocab_size=32_128,
        context_length=512,
        source_length=512,
        num_layers=6,
        d_model=512,
        num_heads=8,
        norm="rms_norm",
        norm_epsilon=1e-6,
        positions="relative",
        scale_embeddings=False,
        use_bias=False,
    )


def _vaswani(d_model: int, num_heads: int) -> "EncoderDecoderConfig":
    """Returns Vaswani et al. 2017, Table 3, with 37,000 tokens of German and English.

    With biases in all projections, as in their code's successors; Table 3 rounds to millions.
    """
    from lm_jax.models.transformer.config import EncoderDecoderConfig

    return EncoderDecoderConfig(
        vocab_size=37_000,
        num_layers=6,
        d_model=d_model,
        num_heads=num_heads,
        norm_order="post",
    )


def _imagenet(architecture: str, size: int = 224) -> "ConvNetConfig":
    """Returns a network for 1,000 classes of colour images, as models/convnet/networks.py."""
    from lm_jax.models.convnet.model import ConvNetConfig

    return ConvNetConfig(architecture, 1000, size, size, 3)


PRESETS: dict[str, Callable[[], Config]] = {
    "gpt2_small": lambda: _gpt2(12, 768, 12),
    "gpt2_medium": lambda: _gpt2(24, 1024, 16),
    "gpt2_large": lambda: _gpt2(36, 1280, 20),
    "gpt2_xl": lambda: _gpt2(48, 1600, 25),
    "gpt3_175b": lambda: _gpt3(96, 12_288, 96),
    "llama2_7b": lambda: _llama(
        32_000, 4096, num_layers=32, d_model=4096, num_heads=32, d_ff=11_008
    ),
    "llama3_8b": lambda: _llama(
        128_256,
        8192,
        num_layers=32,
        d_model=4096,
        num_heads=32,
        num_kv_heads=8,
        d_ff=14_336,
        rotary_base=500_000.0,
    ),
    "llama3_70b": lambda: _llama(
        128_256,
        8192,
        num_layers=80,
        d_model=8192,
        num_heads=64,
        num_kv_heads=8,
        d_ff=28_672,
        rotary_base=500_000.0,
    ),
    "bert_base": _bert_base,
    "t5_small": _t5_small,
    "transformer_base": lambda: _vaswani(512, 8),
    "transformer_big": lambda: _vaswani(1024, 16),
    "alexnet": lambda: _imagenet("alexnet", 227),
    "googlenet": lambda: _imagenet("googlenet"),
    "resnet18": lambda: _imagenet("resnet18"),
    "resnet34": lambda: _imagenet("resnet34"),
    "resnet152": lambda: _imagenet("resnet152"),
}


def preset(name: str) -> Config:
    """Returns the configuration of a published model.

    Raises:
      UserError: no model of that name is known.
    """
    if name not in PRESETS:
        raise UserError(f"unknown model {name!r}; known are {', '.join(PRESETS)}")
    return PRESETS[name]()
