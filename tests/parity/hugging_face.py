"""Small models of Hugging Face transformers, and the same weights as ours.

Every parameter is drawn by its Hugging Face name, so that no term hides behind a zero or a one and
the tests can draw the same weights where transformers is not installed.
"""

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax.models.transformer.config import EncoderConfig, EncoderDecoderConfig, TransformerConfig
from tests.parity.recorded import draws, reference

LIBRARIES = ("torch", "transformers")
GPT2 = {"vocab_size": 61, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
BERT = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 32, "type_vocab_size": 2}  # fmt: skip
T5 = {"vocab_size": 61, "d_model": 32, "num_heads": 4, "d_kv": 8, "d_ff": 48,
      "num_layers": 3, "num_decoder_layers": 2, "relative_attention_num_buckets": 8,
      "relative_attention_max_distance": 20, "decoder_start_token_id": 0,
      "layer_norm_epsilon": 1e-6}  # fmt: skip

Weights = dict[str, np.ndarray]


def draw_weights(shapes: dict[str, Any]) -> Weights:
    """Returns weights of these shapes: matrices of 0.2, biases of 0.1, scales of norms near 1."""
    found = {}
    for name, shape in shapes.items():
        is_matrix = len(shape) > 1
        is_scale = not is_matrix and name.endswith("weight")
        found[name] = draws(name, tuple(shape), 0.2 if is_matrix else 0.1) + np.float32(is_scale)
    return found


class Peer(NamedTuple):
    """A model of transformers by the names of its classes, and the fields of its configuration."""

    name: str
    kind: str
    config: str
    fields: dict[str, Any]
    draw: Callable[[dict[str, Any]], Weights] = draw_weights
    record: str = "hugging_face"  # name of the file of its numbers

    def build(self) -> Any:
        """Returns the PyTorch module with the weights of `weights`."""
        import torch
        import transformers

        config = getattr(transformers, self.config)(**self.fields)
        module = getattr(transformers, self.kind)(config)
        if not self.fields.get("tie_word_embeddings", True):
            module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.clone())
        drawn = self.draw({n: p.shape for n, p in module.named_parameters()})
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(torch.from_numpy(drawn[name]))
        return module.eval()

    def weights(self) -> Weights:
        """Returns every parameter by its Hugging Face name, drawn without transformers."""

        def shapes(_: Any) -> dict[str, Any]:
            found = {n: list(p.shape) for n, p in self.build().named_parameters()}
            return {"json": np.frombuffer(json.dumps(found).encode(), np.uint8)}

        found = reference(self.record, f"{self.name} shapes", shapes, libraries=LIBRARIES)["json"]
        return self.draw(json.loads(found.tobytes()))


class Pair(NamedTuple):
    """A peer, and our configuration and variables of the same function."""

    peer: Peer
    config: Any
    variables: dict[str, Any]


def stack(layers: list[Any]) -> Any:
    """Returns layers of the same parameters on one leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)


def norm(w: Weights, name: str) -> Weights:
    """Returns a norm of ours with the weights of this name."""
    found = {"scale": w[f"{name}.weight"]}
    return found | ({"bias": w[f"{name}.bias"]} if f"{name}.bias" in w else {})


def linear(w: Weights, name: str) -> Weights:
    """Returns a linear layer of ours with the weights of this name."""
    found = {"kernel": w[f"{name}.weight"].T}
    return found | ({"bias": w[f"{name}.bias"]} if f"{name}.bias" in w else {})


def gpt2_params(w: Weights, num_layers: int) -> dict[str, Any]:
    """Returns our parameters with the weights of a GPT2LMHeadModel."""

    def layer(at: str) -> dict[str, Any]:
        kernels = np.split(w[f"{at}.attn.c_attn.weight"], 3, axis=1)
        biases = np.split(w[f"{at}.attn.c_attn.bias"], 3)
        names = ("query", "key", "value")
        attention = {
            n: {"kernel": k, "bias": b} for n, k, b in zip(names, kernels, biases, strict=True)
        }

        def conv1d(name: str) -> Weights:
            return {"kernel": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}

        return {
            "attention": attention | {"output": conv1d(f"{at}.attn.c_proj")},
            "attention_norm": norm(w, f"{at}.ln_1"),
            "feed_forward": {
                "up": conv1d(f"{at}.mlp.c_fc"),
                "down": conv1d(f"{at}.mlp.c_proj"),
            },
            "feed_forward_norm": norm(w, f"{at}.ln_2"),
        }

    return {
        "embedding": w["transformer.wte.weight"],
        "positions": w["transformer.wpe.weight"],
        "layers": stack([layer(f"transformer.h.{i}") for i in range(num_layers)]),
        "final_norm": norm(w, "transformer.ln_f"),
    }


def gpt2_config(fields: dict[str, Any]) -> TransformerConfig:
    """Returns our configuration of a GPT2Config with these fields."""
    return TransformerConfig(
        vocab_size=fields["vocab_size"],
        context_length=fields["n_positions"],
        num_layers=fields["n_layer"],
        d_model=fields["n_embd"],
        num_heads=fields["n_head"],
    )


def gpt2() -> Pair:
    """Returns a GPT-2 of two layers."""
    peer = Peer("gpt2", "GPT2LMHeadModel", "GPT2Config", GPT2)
    params = gpt2_params(peer.weights(), GPT2["n_layer"])
    return Pair(peer, gpt2_config(GPT2), {"params": params})


def ending_gpt2(vocab_size: int, end: int) -> Pair:
    """Returns a GPT-2 of two layers of 16 that often ends a text: all other tokens are peaked."""

    def draw(shapes: dict[str, Any]) -> Weights:
        found = {}
        for name, shape in shapes.items():
            scale = 0.2 if name.endswith("c_proj.weight") else 0.4
            is_scale = len(shape) == 1 and name.endswith("weight")
            found[name] = draws(f"b{name}", tuple(shape), scale if len(shape) > 1 else 0.0)
            found[name] += np.float32(is_scale)
        found["transformer.ln_f.bias"] += np.float32(0.45) * found["transformer.wte.weight"][end]
        return found

    fields = {"vocab_size": vocab_size, "n_positions": 40, "n_embd": 16, "n_layer": 2, "n_head": 4,
              "bos_token_id": None, "eos_token_id": end}  # fmt: skip
    peer = Peer("gpt2 that ends", "GPT2LMHeadModel", "GPT2Config", fields, draw)
    params = gpt2_params(peer.weights(), fields["n_layer"])
    return Pair(peer, gpt2_config(fields), {"params": params})


def bert(num_classes: int = 0) -> Pair:
    """Returns a BERT of two layers, for masked tokens or for classification."""
    name, kind, fields = "bert for masked tokens", "BertForMaskedLM", dict(BERT)
    if num_classes:
        name, kind = "bert for classes", "BertForSequenceClassification"
        fields["num_labels"] = num_classes
    peer = Peer(name, kind, "BertConfig", fields)
    w = peer.weights()

    def layer(at: str) -> dict[str, Any]:
        own = f"{at}.attention"
        attention = {n: linear(w, f"{own}.self.{n}") for n in ("query", "key", "value")}
        return {
            "attention": attention | {"output": linear(w, f"{own}.output.dense")},
            "attention_norm": norm(w, f"{own}.output.LayerNorm"),
            "feed_forward": {
                "up": linear(w, f"{at}.intermediate.dense"),
                "down": linear(w, f"{at}.output.dense"),
            },
            "feed_forward_norm": norm(w, f"{at}.output.LayerNorm"),
        }

    embeddings = "bert.embeddings"
    if num_classes:
        head = {"pooler": linear(w, "bert.pooler.dense"), "classes": linear(w, "classifier")}
    else:
        transform = "cls.predictions.transform"
        head = {
            "transform": linear(w, f"{transform}.dense"),
            "norm": norm(w, f"{transform}.LayerNorm"),
            "bias": w["cls.predictions.bias"],
        }
    params = {
        "embedding": w[f"{embeddings}.word_embeddings.weight"],
        "positions": w[f"{embeddings}.position_embeddings.weight"],
        "segment_types": w[f"{embeddings}.token_type_embeddings.weight"],
        "embedding_norm": norm(w, f"{embeddings}.LayerNorm"),
        "layers": stack([layer(f"bert.encoder.layer.{i}") for i in range(2)]),
        "head": head,
    }
    config = EncoderConfig(
        vocab_size=61,
        context_length=32,
        num_layers=2,
        d_model=32,
        num_heads=4,
        d_ff=64,
        num_segment_types=2,
        num_classes=num_classes,
        pooling="first",
    )
    return Pair(peer, config, {"params": params})


def t5(tied: bool = True, head_width: int = T5["d_kv"]) -> Pair:
    """Returns a T5 of three encoder and two decoder layers: version 1.0 if tied, else 1.1.

    Where embeddings are tied, T5 divides the decoder's output by sqrt(d), as its last norm can do.
    """
    newer = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    name, fields = ("t5 1.0", T5) if tied else ("t5 1.1", T5 | newer)
    if head_width != T5["d_kv"]:
        name, fields = f"{name}, heads of {head_width}", fields | {"d_kv": head_width}
    peer = Peer(name, "T5ForConditionalGeneration", "T5Config", fields)
    w = peer.weights()

    def attention(at: str) -> dict[str, Any]:
        names = ("query", "key", "value", "output")
        return {name: linear(w, f"{at}.{name[0]}") for name in names}

    def layer(at: str, has_cross_attention: bool) -> dict[str, Any]:
        last = f"{at}.layer.{1 + has_cross_attention}"
        names = {"up": "wi"} if tied else {"gate": "wi_0", "up": "wi_1"}
        names["down"] = "wo"
        found = {
            "attention": attention(f"{at}.layer.0.SelfAttention"),
            "attention_norm": norm(w, f"{at}.layer.0.layer_norm"),
            "feed_forward": {n: linear(w, f"{last}.DenseReluDense.{m}") for n, m in names.items()},
            "feed_forward_norm": norm(w, f"{last}.layer_norm"),
        }
        if has_cross_attention:
            found["cross_attention"] = attention(f"{at}.layer.1.EncDecAttention")
            found["cross_attention_norm"] = norm(w, f"{at}.layer.1.layer_norm")
        return found

    def layers(name: str, count: int, has_cross_attention: bool) -> dict[str, Any]:
        bias = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        blocks = [layer(f"{name}.block.{i}", has_cross_attention) for i in range(count)]
        last = norm(w, f"{name}.final_layer_norm")
        return {"relative_bias": w[bias], "layers": stack(blocks), "final_norm": last}

    params = {
        "embedding": w["shared.weight"],
        "encoder": layers("encoder", T5["num_layers"], False),
        "decoder": layers("decoder", T5["num_decoder_layers"], True),
    }
    if tied:
        last = params["decoder"]["final_norm"]
        last["scale"] = last["scale"] / np.float32(math.sqrt(T5["d_model"]))
    else:
        params["output"] = w["lm_head.weight"]
    config = EncoderDecoderConfig(
        vocab_size=T5["vocab_size"],
        num_layers=T5["num_decoder_layers"],
        num_encoder_layers=T5["num_layers"],
        d_model=T5["d_model"],
        num_heads=T5["num_heads"],
        head_dim=head_width,
        d_ff=T5["d_ff"],
        norm="rms_norm",
        norm_epsilon=T5["layer_norm_epsilon"],
        activation="relu" if tied else "geglu",
        positions="relative",
        attention_scale=1.0,
        relative_buckets=T5["relative_attention_num_buckets"],
        relative_distance=T5["relative_attention_max_distance"],
        scale_embeddings=False,
        tie_embeddings=tied,
        use_bias=False,
    )
    return Pair(peer, config, {"params": params})
