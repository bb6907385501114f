"""BERT (Devlin et al. 2019)."""

from lm_jax.interop.tables import Architecture, dropout, linear, named, norm, only, row, same

_LAYER = "bert.encoder.layer.{layer}"
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu"}

BERT = Architecture(
    model_type="bert",
    classes=("BertForMaskedLM", "BertModel", "BertForPreTraining"),
    family="encoder",
    objective="masked_lm",
    constants={
        "norm": "layer_norm",
        "norm_order": "post",
        "embedding_norm": True,
        "positions": "learned",
        "use_bias": True,
        "tie_embeddings": True,
    },
    fields=(
        same("vocab_size", "vocab_size"),
        same("max_position_embeddings", "context_length", 512),
        same("hidden_size", "d_model"),
        same("num_hidden_layers", "num_layers"),
        same("num_attention_heads", "num_heads"),
        same("intermediate_size", "d_ff", None, lambda config: config.feed_forward_width),
        same("layer_norm_eps", "norm_epsilon", 1e-12),
        same("type_vocab_size", "num_segment_types", 2),
        named("hidden_act", "activation", _ACTIVATIONS, "gelu"),
        only("position_embedding_type", "absolute", None),
        only("is_decoder", False),
        only("tie_word_embeddings", True),
        dropout("hidden_dropout_prob", none=("attention_probs_dropout_prob",)),
    ),
    rows=(
        row("bert.embeddings.word_embeddings.weight", "embedding"),
        row("bert.embeddings.position_embeddings.weight", "positions"),
        row("bert.embeddings.token_type_embeddings.weight", "segment_types"),
        *norm("bert.embeddings.LayerNorm", "embedding_norm"),
        *linear(f"{_LAYER}.attention.self.query", "layers/attention/query"),
        *linear(f"{_LAYER}.attention.self.key", "layers/attention/key"),
        *linear(f"{_LAYER}.attention.self.value", "layers/attention/value"),
        *linear(f"{_LAYER}.attention.output.dense", "layers/attention/output"),
        *norm(f"{_LAYER}.attention.output.LayerNorm", "layers/attention_norm"),
        *linear(f"{_LAYER}.intermediate.dense", "layers/feed_forward/up"),
        *linear(f"{_LAYER}.output.dense", "layers/feed_forward/down"),
        *norm(f"{_LAYER}.output.LayerNorm", "layers/feed_forward_norm"),
        *linear("cls.predictions.transform.dense", "head/transform"),
        *norm("cls.predictions.transform.LayerNorm", "head/norm"),
        row("cls.predictions.bias", "head/bias"),
    ),
    prefix="bert.",
    left_out=(
        "bert.embeddings.position_ids",
        "bert.pooler.*",
        "cls.predictions.decoder.*",
        "cls.seq_relationship.*",
    ),
    head="head/",
    of_tokenizer={"mask_id": "mask_token"},
)
