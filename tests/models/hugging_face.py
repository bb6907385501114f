"""Models of Hugging Face transformers with random weights, and the same weights as ours."""

from typing import Any, NamedTuple

import jax
import numpy as np
import torch
import transformers

from lm_jax.models.transformer.model import EncoderConfig, EncoderDecoderConfig, TransformerConfig


class Pair(NamedTuple):
    """A peer, and our configuration and variables of the same function."""

    peer: Any
    config: Any
    variables: dict[str, Any]


def randomized(peer: Any, seed: int = 0) -> Any:
    """The peer with every parameter random, so that no term hides behind a zero or a one."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return peer.eval()


def _arrays(peer: Any) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in peer.state_dict().items()}


def _stack(layers: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)


def _norm(w: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    found = {"scale": w[f"{name}.weight"]}
    return found | ({"bias": w[f"{name}.bias"]} if f"{name}.bias" in w else {})


def _linear(w: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    found = {"kernel": w[f"{name}.weight"].T}
    return found | ({"bias": w[f"{name}.bias"]} if f"{name}.bias" in w else {})


def gpt2(**fields: Any) -> Pair:
    """A GPT-2 of two layers."""
    shape = {"vocab_size": 61, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
    peer = randomized(transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape | fields)))
    w, c = _arrays(peer), peer.config

    def layer(at: str) -> dict[str, Any]:
        kernels = np.split(w[f"{at}.attn.c_attn.weight"], 3, axis=1)
        biases = np.split(w[f"{at}.attn.c_attn.bias"], 3)
        names = ("query", "key", "value")
        attention = {
            n: {"kernel": k, "bias": b} for n, k, b in zip(names, kernels, biases, strict=True)
        }

        def conv1d(name: str) -> dict[str, np.ndarray]:
            return {"kernel": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}

        return {
            "attention": attention | {"output": conv1d(f"{at}.attn.c_proj")},
            "attention_norm": _norm(w, f"{at}.ln_1"),
            "feed_forward": {
                "up": conv1d(f"{at}.mlp.c_fc"),
                "down": conv1d(f"{at}.mlp.c_proj"),
            },
            "feed_forward_norm": _norm(w, f"{at}.ln_2"),
        }

    params = {
        "embedding": w["transformer.wte.weight"],
        "positions": w["transformer.wpe.weight"],
        "layers": _stack([layer(f"transformer.h.{i}") for i in range(c.n_layer)]),
        "final_norm": _norm(w, "transformer.ln_f"),
    }
    config = TransformerConfig(
        vocab_size=c.vocab_size,
        context_length=c.n_positions,
        num_layers=c.n_layer,
        d_model=c.n_embd,
        num_heads=c.n_head,
    )
    return Pair(peer, config, {"params": params})


def bert(num_classes: int = 0, **fields: Any) -> Pair:
    """A BERT of two layers, for masked tokens or for classification."""
    shape = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"intermediate_size": 64, "max_position_embeddings": 32}
    kind = transformers.BertForMaskedLM
    if num_classes:
        kind, shape["num_labels"] = transformers.BertForSequenceClassification, num_classes
    peer = randomized(kind(transformers.BertConfig(**shape | fields)))
    w, c = _arrays(peer), peer.config

    def layer(at: str) -> dict[str, Any]:
        own = f"{at}.attention"
        attention = {n: _linear(w, f"{own}.self.{n}") for n in ("query", "key", "value")}
        return {
            "attention": attention | {"output": _linear(w, f"{own}.output.dense")},
            "attention_norm": _norm(w, f"{own}.output.LayerNorm"),
            "feed_forward": {
                "up": _linear(w, f"{at}.intermediate.dense"),
                "down": _linear(w, f"{at}.output.dense"),
            },
            "feed_forward_norm": _norm(w, f"{at}.output.LayerNorm"),
        }

    embeddings = "bert.embeddings"
    if num_classes:
        head = {"pooler": _linear(w, "bert.pooler.dense"), "classes": _linear(w, "classifier")}
    else:
        transform = "cls.predictions.transform"
        head = {
            "transform": _linear(w, f"{transform}.dense"),
            "norm": _norm(w, f"{transform}.LayerNorm"),
            "bias": w["cls.predictions.bias"],
        }
    params = {
        "embedding": w[f"{embeddings}.word_embeddings.weight"],
        "positions": w[f"{embeddings}.position_embeddings.weight"],
        "segment_types": w[f"{embeddings}.token_type_embeddings.weight"],
        "embedding_norm": _norm(w, f"{embeddings}.LayerNorm"),
        "layers": _stack([layer(f"bert.encoder.layer.{i}") for i in range(c.num_hidden_layers)]),
        "head": head,
    }
    config = EncoderConfig(
        vocab_size=c.vocab_size,
        context_length=c.max_position_embeddings,
        num_layers=c.num_hidden_layers,
        d_model=c.hidden_size,
        num_heads=c.num_attention_heads,
        d_ff=c.intermediate_size,
        num_segment_types=c.type_vocab_size,
        num_classes=num_classes,
        pooling="first",
    )
    return Pair(peer, config, {"params": params})


def t5(tied: bool = True, **fields: Any) -> Pair:
    """A T5 of three encoder and two decoder layers; untied and with gates it is version 1.1.

    T5 does not divide its scores by sqrt(k), which is the same function as queries sqrt(k) times as
    long; where embeddings are tied it divides the decoder's output by sqrt(d), as its last norm
    can do.
    """
    shape = {"vocab_size": 61, "d_model": 32, "num_heads": 4, "d_kv": 8, "d_ff": 48}
    shape |= {"num_layers": 3, "num_decoder_layers": 2, "relative_attention_num_buckets": 8}
    shape |= {"relative_attention_max_distance": 20, "decoder_start_token_id": 0}
    peer = transformers.T5ForConditionalGeneration(transformers.T5Config(**shape | fields))
    if not tied:
        peer.lm_head.weight = torch.nn.Parameter(torch.randn(61, 32) / 6)
    w, c = _arrays(randomized(peer)), peer.config

    def attention(at: str) -> dict[str, Any]:
        found = {name: _linear(w, f"{at}.{name[0]}") for name in ("query", "key", "value")}
        found["query"]["kernel"] = found["query"]["kernel"] * np.sqrt(c.d_kv)
        return found | {"output": _linear(w, f"{at}.o")}

    def layer(at: str, crosses: bool) -> dict[str, Any]:
        last = f"{at}.layer.{1 + crosses}"
        names = {"gate": "wi_0", "up": "wi_1"} if c.is_gated_act else {"up": "wi"}
        names["down"] = "wo"
        found = {
            "attention": attention(f"{at}.layer.0.SelfAttention"),
            "attention_norm": _norm(w, f"{at}.layer.0.layer_norm"),
            "feed_forward": {n: _linear(w, f"{last}.DenseReluDense.{m}") for n, m in names.items()},
            "feed_forward_norm": _norm(w, f"{last}.layer_norm"),
        }
        if crosses:
            found["cross_attention"] = attention(f"{at}.layer.1.EncDecAttention")
            found["cross_attention_norm"] = _norm(w, f"{at}.layer.1.layer_norm")
        return found

    def tower(name: str, count: int, crosses: bool) -> dict[str, Any]:
        bias = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        return {
            "relative_bias": w[bias],
            "layers": _stack([layer(f"{name}.block.{i}", crosses) for i in range(count)]),
            "final_norm": _norm(w, f"{name}.final_layer_norm"),
        }

    params = {
        "embedding": w["shared.weight"],
        "encoder": tower("encoder", c.num_layers, False),
        "decoder": tower("decoder", c.num_decoder_layers, True),
    }
    if c.scale_decoder_outputs:
        last = params["decoder"]["final_norm"]
        last["scale"] = last["scale"] / np.sqrt(c.d_model)
    if not tied:
        params["output"] = w["lm_head.weight"]
    config = EncoderDecoderConfig(
        vocab_size=c.vocab_size,
        num_layers=c.num_decoder_layers,
        num_encoder_layers=c.num_layers,
        d_model=c.d_model,
        num_heads=c.num_heads,
        d_ff=c.d_ff,
        norm="rms_norm",
        norm_epsilon=c.layer_norm_epsilon,
        activation="geglu" if c.is_gated_act else "relu",
        positions="relative",
        relative_buckets=c.relative_attention_num_buckets,
        relative_distance=c.relative_attention_max_distance,
        scale_embeddings=False,
        tie_embeddings=tied,
        use_bias=False,
    )
    return Pair(peer, config, {"params": params})
