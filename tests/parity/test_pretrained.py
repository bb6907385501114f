"""Weights of transformers, read and written: the same tensors, configurations and logits."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from lm_jax.interop.architectures import read_config
from lm_jax.interop.export_model import write_model
from lm_jax.interop.import_model import nested, open_model, read_arrays
from lm_jax.models import build_model
from lm_jax.models.transformer import experts
from lm_jax.training.checkpoints import SavedArray
from tests.models.jitted import jitted
from tests.parity import pretrained
from tests.parity.recorded import reference


def cases(*quick):
    """All cases, of which these are no slow tests."""
    names = pretrained.CASES
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


ALSO = {"mistral, no window": "llama"}  # the first architecture that computes the same
TOKENS = np.random.default_rng(0).integers(0, pretrained.VOCABULARY, (2, 20)).astype(np.int32)
KNOWN = 12  # tokens that are read at once, before the others


def saved(arrays):
    """The arrays as `write_model` takes them."""
    return {path: SavedArray(x.shape, x.dtype, lambda x=x: x) for path, x in arrays.items()}


def imported(name, directory):
    """Our configuration and arrays of a case, and the tensors that were written to the folder."""
    tensors = pretrained.write_folder(name, directory / "theirs")
    source = open_model(directory / "theirs")
    (directory / "scratch").mkdir()
    return source, read_arrays(source, directory / "scratch"), tensors


@pytest.mark.parametrize("name", cases("gpt2", "llama, tied, wide heads"))
def test_what_is_read_is_written_again_bit_for_bit(name, tmp_path):
    source, arrays, tensors = imported(name, tmp_path)
    (tmp_path / "again").mkdir()
    values = write_model(source.config, saved(arrays), tmp_path / "again")
    again = load_file(tmp_path / "again/model.safetensors")
    assert again.keys() == tensors.keys()
    for tensor, expected in tensors.items():
        rounding = 2e-7 if name.startswith("gemma") and "norm" in tensor else 0  # 1 + w - 1
        np.testing.assert_allclose(again[tensor], expected, 0, rounding, err_msg=tensor)
    theirs = read_config(tmp_path / "theirs")
    assert values["model_type"] == ALSO.get(name, theirs["model_type"])
    theirs = {field: value for field, value in theirs.items() if value is not None}
    for field in ("architectures", "model_type"):
        del theirs[field], values[field]
    values = {field: value for field, value in values.items() if "drop" not in field}  # ours
    there = {field: theirs.get(field, value) for field, value in values.items()}
    assert values == there


@pytest.mark.parametrize("name", cases("llama, tied, wide heads"))
def test_logits_are_those_of_transformers(name, tmp_path):
    source, arrays, _ = imported(name, tmp_path)
    (tmp_path / "again").mkdir()
    values = write_model(source.config, saved(arrays), tmp_path / "again")
    (tmp_path / "again/config.json").write_text(json.dumps(values))

    def compute(_):
        import torch

        module = pretrained.load(name, tmp_path / "again")
        return {"logits": module(torch.tensor(TOKENS).long()).logits.detach().numpy()}

    expected = reference(
        "pretrained_logits", name, compute, TOKENS, libraries=pretrained.LIBRARIES
    )["logits"]
    model = jitted(build_model(source.config, jnp.float32))
    variables = {"params": nested(arrays)}
    logits = np.asarray(model.apply(variables, {"inputs": TOKENS}, train=False)[0])
    assert logits.shape == expected.shape and np.ptp(expected) > 1
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in pretrained.CASES if "moe" in n or n == "mixtral"])
def test_no_choice_of_experts_hangs_on_rounding(name, tmp_path, monkeypatch):
    """Otherwise the comparisons of logits depend on the CPU."""
    source, arrays, _ = imported(name, tmp_path)
    routed = []

    def route(config, logits_bte, route=experts.route):
        jax.debug.callback(lambda logits: routed.append(np.sort(logits)), logits_bte)
        return route(config, logits_bte)

    monkeypatch.setattr(experts, "route", route)
    model = build_model(source.config, jnp.float32)
    model.apply({"params": nested(arrays)}, {"inputs": TOKENS}, train=False)
    jax.effects_barrier()
    per_token = source.config.experts_per_token
    assert len(routed) == source.config.num_layers
    gaps = [logits[..., -per_token] - logits[..., -per_token - 1] for logits in routed]
    assert np.min(gaps) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", pretrained.CASES)
def test_logits_with_a_cache_are_those_without(name, tmp_path):
    source, arrays, _ = imported(name, tmp_path)
    model = jitted(build_model(source.config, jnp.float32))
    variables = {"params": nested(arrays)}
    logits = np.asarray(model.apply(variables, {"inputs": TOKENS}, train=False)[0])
    carry = model.start(variables, len(TOKENS), TOKENS.shape[1])
    last, carry = model.read(variables, carry, TOKENS[:, :KNOWN])
    cached = [last]
    for time in range(KNOWN, TOKENS.shape[1]):
        last, carry = model.step(variables, carry, TOKENS[:, time])
        cached.append(last)
    np.testing.assert_allclose(np.stack(cached, 1), logits[:, KNOWN - 1 :], atol=1e-4)
