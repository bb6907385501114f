"""T5 (Raffel et al. 2020), versions 1.0 and 1.1."""

from collections.abc import Iterator

from lm_jax.interop.tables import (
    TRANSPOSED,
    Architecture,
    Field,
    Row,
    dropout,
    linear,
    named,
    norm,
    row,
    same,
)

_BLOCK = "{stack}.block.{{layer}}.layer"
_ACTIVATIONS = {
    "relu": "relu",
    "gated-gelu": "geglu",
    "gated-silu": "swiglu",
    "gelu_new": "gelu_tanh",
}


def _stack(stack: str, last: int) -> Iterator[Row]:
    """Yields the rows of the encoder or the decoder, whose feed-forward block is the `last` one."""
    block, ours = _BLOCK.format(stack=stack), f"{stack}/layers"
    attentions = [(0, "SelfAttention", "attention"), (1, "EncDecAttention", "cross_attention")]
    for index, theirs, name in attentions[:last]:
        for part in ("query", "key", "value", "output"):
            yield from linear(f"{block}.{index}.{theirs}.{part[0]}", f"{ours}/{name}/{part}")
        yield from norm(f"{block}.{index}.layer_norm", f"{ours}/{name}_norm")
    dense = f"{block}.{last}.DenseReluDense"
    gated = tuple(f"{ours}/feed_forward/{name}/kernel" for name in ("gate", "up"))
    yield Row((f"{dense}.wi_0.weight", f"{dense}.wi_1.weight"), gated, TRANSPOSED)
    yield from linear(f"{dense}.wi", f"{ours}/feed_forward/up")
    yield from linear(f"{dense}.wo", f"{ours}/feed_forward/down")
    yield from norm(f"{block}.{last}.layer_norm", f"{ours}/feed_forward_norm")
    bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    yield row(bias, f"{stack}/relative_bias")
    yield from norm(f"{stack}.final_layer_norm", f"{stack}/final_norm")


_LENGTH = same("n_positions", "context_length", 512)

T5 = Architecture(
    model_type="t5",
    classes=("T5ForConditionalGeneration",),
    family="encoder_decoder",
    objective="seq2seq",
    constants={
        "norm": "rms_norm",
        "norm_order": "pre",
        "positions": "relative",
        "use_bias": False,
        "scale_embeddings": False,
        "attention_scale": 1.0,
    },
    fields=(
        same("vocab_size", "vocab_size"),
        _LENGTH,
        Field("source_length", _LENGTH.read, lambda config: {}),
        same("d_model", "d_model"),
        same("d_kv", "head_dim", 64, lambda config: config.head_width),
        same("d_ff", "d_ff", None, lambda config: config.feed_forward_width),
        same("num_layers", "num_encoder_layers", None, lambda config: config.encoder_layers),
        Field(
            "num_layers",
            lambda values: values.get("num_decoder_layers") or values["num_layers"],
            lambda config: {"num_decoder_layers": config.num_layers},
        ),
        same("num_heads", "num_heads"),
        same("relative_attention_num_buckets", "relative_buckets", 32),
        same("relative_attention_max_distance", "relative_distance", 128),
        same("layer_norm_epsilon", "norm_epsilon", 1e-6),
        same("tie_word_embeddings", "tie_embeddings", True),
        named("feed_forward_proj", "activation", _ACTIVATIONS, "relu"),
        dropout("dropout_rate"),  # of attention weights, too, which no other field decides
        Field(  # the decoder's output is divided by sqrt(d): by default where the tables are tied
            "logit_scale",
            lambda values: (
                values["d_model"] ** -0.5
                if values.get("scale_decoder_outputs", values.get("tie_word_embeddings", True))
                else 1.0
            ),
            lambda config: {"scale_decoder_outputs": config.logit_scale != 1.0},
        ),
    ),
    rows=(
        row("shared.weight", "embedding"),
        *_stack("encoder", 1),
        *_stack("decoder", 2),
        row("lm_head.weight", "output"),
    ),
    left_out=(
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "lm_head.weight",
        "*.EncDecAttention.relative_attention_bias.weight",
    ),
)
