"""Benchmarks that do the same work in PyTorch in the same run."""

import functools
import json

import jax
import numpy as np
import pytest

from benchmarks import convnet_step
from lm_jax.benchmarking import decode, evaluate
from lm_jax.benchmarking.pytorch_baseline import find_baselines
from lm_jax.benchmarking.train_step import measure, random_batches
from lm_jax.build import BuiltExperiment
from lm_jax.config.experiment import OptimizerConfig
from lm_jax.costs.model_flops import count_parameters
from lm_jax.data import ImageConfig
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.parallel.sharding import unboxed
from tests.benchmarking.programs import LSTM, check_measured, compiled, small
from tests.experiments import tiny

pytest.importorskip("torch")


@pytest.mark.parametrize("model", [None, LSTM])
def test_the_train_step_is_measured_beside_pytorch(model):
    built = small(**({"model": model} if model else {}))
    baselines = find_baselines(built, "eager")
    result = measure(built, 2, baselines.training)
    assert list(result["programs"]) == ["lm_jax", "pytorch"] and "eager" in baselines.note
    check_measured(built, result)
    low, high = result["ratio_range"]
    assert low <= result["ratio"] <= high


def test_pytorchs_model_has_the_same_parameters():
    from lm_jax.benchmarking import pytorch_models

    config = small().experiment.model
    for use_bias in (True, False):
        config.use_bias = use_bias
        theirs = sum(p.numel() for p in pytorch_models.Decoder(config).parameters())
        assert theirs == count_parameters(config)["total"]


def _llama(**fields) -> BuiltExperiment:
    model = TransformerConfig(
        **{"vocab_size": 50, "context_length": 16, "num_layers": 2, "d_model": 32}
        | {"num_heads": 4, "num_kv_heads": 2, "norm": "rms_norm", "activation": "swiglu"}
        | {"positions": "rotary", "use_bias": False, "tie_embeddings": False}
        | fields
    )
    return small(model=model)


def _copy_llama(params, module) -> None:
    """Gives PyTorch's model the parameters of ours, whose layers are stacked."""
    import torch

    def put(parameter, value):
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.array(value)))

    put(module.embedding.weight, params["embedding"])
    put(module.head.weight, params["output"])
    put(module.norm.weight, params["final_norm"]["scale"])
    for number, block in enumerate(module.blocks):
        layer = jax.tree.map(lambda x: x[number], params["layers"])  # noqa: B023
        attention, feed_forward = layer["attention"], layer["feed_forward"]
        parts = [attention[name]["kernel"].T for name in ("query", "key", "value")]
        put(block.qkv.weight, np.concatenate(parts))
        put(block.output.weight, attention["output"]["kernel"].T)
        put(block.attention_norm.weight, layer["attention_norm"]["scale"])
        put(block.feed_forward_norm.weight, layer["feed_forward_norm"]["scale"])
        for name, kernel in feed_forward.items():
            put(getattr(block.feed_forward, name).weight, kernel["kernel"].T)


def test_pytorchs_llama_has_the_loss_of_ours():
    import torch

    from lm_jax.benchmarking import pytorch_models

    built = _llama()
    batch = {name: values[0] for name, values in random_batches(built, 1).items()}
    variables = unboxed(built.model.init(jax.random.key(0), batch))
    # Norms and embeddings of a new model are too even to tell one order from another.
    variables = jax.tree.map(
        lambda x: x + 0.2 * jax.random.normal(jax.random.key(x.size), x.shape), variables
    )
    logits, _ = built.model.apply(variables, batch, train=False)
    log_probabilities = jax.nn.log_softmax(logits)
    ours = -np.take_along_axis(log_probabilities, batch["targets"][..., None], -1).mean()
    module = pytorch_models.Decoder(built.experiment.model)
    _copy_llama(variables["params"], module)
    with torch.no_grad():
        inputs, targets = (torch.from_numpy(batch[n]).long() for n in ("inputs", "targets"))
        assert module(inputs, targets).item() == pytest.approx(float(ours), rel=1e-5)


def test_llamas_train_step_is_measured_beside_pytorch():
    built = _llama(num_layers=1)
    result = measure(built, 1, find_baselines(built, "eager").training)
    assert list(result["programs"]) == ["lm_jax", "pytorch"]
    check_measured(built, result)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"model__norm_order": "post"}, "model.norm_order post"),
        ({"model__activation": "geglu"}, "model.activation geglu"),
        ({"model__num_experts": 2}, "model.num_experts 2"),
        ({"optimizer": OptimizerConfig("muon")}, "causal_lm by muon"),
    ],
)
def test_what_pytorch_would_do_otherwise_is_not_compared(fields, what):
    found = find_baselines(small(**fields), "auto")
    assert not found.training and what in found.note


def test_evaluation_is_measured():
    built = small()
    result = evaluate.measure(built, 3, 1, find_baselines(built, "eager").evaluation)
    json.dumps(result)
    assert list(result["programs"]) == ["lm_jax", "pytorch"]
    assert result["targets_per_step"] == 64 and result["steps_per_round"] == 3


def test_hugging_face_decodes_the_same():
    pytest.importorskip("transformers")
    result = decode.measure(small(), batch_size=2, new_tokens=3, rounds=1, mode="auto")
    assert list(result["programs"]) == ["lm_jax", "hugging_face"] and result["ratio"] > 0


@pytest.mark.parametrize("name", list(convnet_step.NETWORKS))
def test_pytorchs_convolutional_networks_have_the_same_parameters(name):
    network = convnet_step.NETWORKS[name]
    built = compiled(tiny(objective="classification", model=network.config, data=ImageConfig()))
    init = functools.partial(built.model.init, jax.random.key(0))
    ours = unboxed(jax.eval_shape(init, built.example))["params"]
    theirs = sum(p.numel() for p in network.build().parameters())
    assert theirs == sum(leaf.size for leaf in jax.tree.leaves(ours))
