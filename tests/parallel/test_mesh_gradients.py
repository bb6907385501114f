"""The gradient of each parameter on a mesh of three axes is that of one device.

Losses alone do not tell: those of a recurrent encoder-decoder fell by almost the same steps with
gradients that were wrong by more than half.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.data import ImageConfig, LabelledTextConfig, ParallelTextConfig
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.convnet.model import ConvNetConfig
from lm_jax.models.convnet.networks import NETWORKS, resnet
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.recurrent.classifier import RecurrentClassifierConfig
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.recurrent.seq2seq_config import RecurrentSeq2SeqConfig
from lm_jax.models.skip_gram import SkipGramConfig
from lm_jax.models.transformer.config import EncoderConfig, EncoderDecoderConfig, TransformerConfig
from lm_jax.parallel import sharding
from tests.conftest import slow_but
from tests.experiments import tiny
from tests.parallel.on_meshes import VOCABULARY, begin, random_batch

TIME = 16
_TOWER = {"context_length": TIME, "d_model": 32, "num_layers": 2, "num_heads": 4}
_HIDDEN = {"context_length": TIME, "d_hidden": 32}
_PAIRS = {"objective": "seq2seq", "data": ParallelTextConfig(source="copy")}
_IMAGES = {"objective": "classification", "data": ImageConfig()}
_TEXTS = {"objective": "classification", "data": LabelledTextConfig(path="texts.tsv")}


def recurrent_pairs(**choices):
    return _PAIRS | {"model": RecurrentSeq2SeqConfig(**_HIDDEN, source_length=24, **choices)}


def images(architecture, size, channels=1):
    return _IMAGES | {"model": ConvNetConfig(architecture, 8, size, size, channels)}


EXPERIMENTS = {
    "decoder": {"model": TransformerConfig(**_TOWER)},
    "decoder, rotary, gated, few keys": {
        "model": TransformerConfig(
            **_TOWER,
            positions="rotary",
            activation="swiglu",
            num_kv_heads=2,
            scan_layers=True,
            head_dim=6,
            qk_norm="all",
            norm_order="both",
            sliding_window=5,
            global_every=2,
        )
    },
    "decoder, experts": {
        "model": TransformerConfig(
            **_TOWER, num_experts=4, d_shared_expert=16, router_balance_weight=1.0
        )
    },
    "decoder, loss in pieces": {"model": TransformerConfig(**_TOWER, loss_chunks=4)},
    "encoder_decoder": _PAIRS | {"model": EncoderDecoderConfig(**_TOWER, source_length=24)},
    "encoder_decoder, relative, post": _PAIRS
    | {
        "model": EncoderDecoderConfig(
            **_TOWER | {"num_layers": 1},
            source_length=24,
            positions="relative",
            norm_order="post",
            activation="geglu",
        )
    },
    "encoder": {"objective": "masked_lm", "model": EncoderConfig(**_TOWER | {"num_layers": 1})},
    "encoder of classes": _TEXTS | {"model": EncoderConfig(**_TOWER, num_classes=8)},
    "mlp": {"model": MLPConfig(context_length=TIME, d_embedding=16, d_hidden=32, direct=True)},
    "causal_cnn": {"model": CausalCNNConfig(context_length=TIME, d_model=32, num_layers=2)},
    "lstm, normalised": {"model": RecurrentConfig(**_HIDDEN, num_layers=2, layer_norm=True)},
    "gru, normalised": {"model": RecurrentConfig(**_HIDDEN, cell="gru", layer_norm=True)},
    "rnn": {"model": RecurrentConfig(**_HIDDEN, cell="rnn")},
    "recurrent_seq2seq": recurrent_pairs(),
    "recurrent_seq2seq, additive": recurrent_pairs(attention="additive", d_attention=16),
    "recurrent_seq2seq, gru, no attention": recurrent_pairs(cell="gru", attention="none"),
    "text_classifier, both ways": _TEXTS
    | {"model": RecurrentClassifierConfig(**_HIDDEN, num_classes=8, bidirectional=True)},
    "text_classifier, both ways, greatest": _TEXTS
    | {
        "model": RecurrentClassifierConfig(
            **_HIDDEN, num_classes=8, bidirectional=True, pooling="max", num_layers=2
        )
    },
    "skip_gram": {"objective": "skip_gram", "model": SkipGramConfig(d_embedding=8, window=2)},
    "lenet5": images("lenet5", 28),
    "residual": images("residual", 32, 3),
    "resnet18": images("resnet18", 32, 3),
}


def gradients(name, mesh):
    """The gradient of each parameter for one batch, by the parameter's path."""
    config = tiny(mesh=mesh, **EXPERIMENTS[name])
    sizes = {"vocab_size": VOCABULARY - (name == "encoder")}  # whose mask comes besides
    built, state = begin(config, sizes if hasattr(config.model, "vocab_size") else {})

    def mean_loss(params, batch):
        variables = {"params": params, **state.stats}
        losses, _ = built.model.loss(variables, batch, train=True, key=jax.random.key(0))
        terms = (jnp.mean(x.values) * x.coefficient for x in losses.auxiliary.values())
        return jnp.sum(losses.nats * batch["weights"]) / jnp.sum(batch["weights"]) + sum(terms)

    with sharding.on_mesh(built.mesh):
        rows = sharding.batch_sharding(built.mesh)
        batch = sharding.place_batch(random_batch(built, 0), rows)
        found = jax.jit(jax.grad(mean_loss))(state.params, batch)
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(found))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


_QUICK = (
    "encoder",
    "recurrent_seq2seq",
    "residual",
)


@pytest.mark.parametrize("name", slow_but(EXPERIMENTS, *_QUICK))
def test_gradients_on_three_axes_are_those_of_one_device(name, monkeypatch):
    monkeypatch.setitem(NETWORKS, "residual", resnet((1, 1), bottleneck=False))
    three_axes = "fsdp:2,expert:2,tensor:2" if "experts" in name else "data:2,fsdp:2,tensor:2"
    one, eight = gradients(name, "data:1"), gradients(name, three_axes)
    assert one.keys() == eight.keys()
    longest = max(np.abs(gradient).max() for gradient in one.values())
    assert longest > 0
    for path, gradient in one.items():
        # That of a key's bias is 0, but for rounding.
        size = max(np.abs(gradient).max(), 1e-3 * longest)
        np.testing.assert_allclose(eight[path], gradient, atol=2e-5 * size, err_msg=path)
