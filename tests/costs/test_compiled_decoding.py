"""A compiled step of decoding: its bytes, that int8 is what it reads, and what is refused."""

import json

import jax
import pytest

from benchmarks.compiled_cases import check, decoding_table
from lm_jax.build import build_experiment
from lm_jax.costs.compiled_decoding import compile_decoding
from lm_jax.costs.topologies import Described
from lm_jax.errors import UserError
from lm_jax.models.transformer.config import EncoderDecoderConfig, TransformerConfig
from lm_jax.objectives.default_experiment import default_experiment
from lm_jax.parallel.sharding import unboxed
from lm_jax.runs.weights import WEIGHTS
from tests.costs.test_topologies import needs_wheels
from tests.launch.programs import ROOT, launch

VOCABULARY, WIDTH, LAYERS, CONTEXT, FEATURES = 96, 32, 1, 24, 128
KERNELS = LAYERS * (4 * WIDTH**2 + 2 * WIDTH * FEATURES)
SCALES = LAYERS * (5 * WIDTH + FEATURES)


def compiled(weights, batch_size, dtype):
    model = TransformerConfig(VOCABULARY, CONTEXT, num_layers=LAYERS, d_model=WIDTH, num_heads=4)
    experiment = default_experiment(model)
    experiment.mesh, experiment.compute_dtype = "data:1", dtype
    devices = tuple(jax.devices()[:1])
    built, convert = WEIGHTS[weights](build_experiment(experiment, {"vocab_size": 1}, devices))
    shapes = unboxed(jax.eval_shape(built.model.init, jax.random.key(0), built.example))
    described = Described(devices, "cpu", {}, "XLA for CPUs")
    return compile_decoding(built, jax.eval_shape(convert, shapes), batch_size, described)


def test_the_bytes_of_parameters_and_caches_are_those_of_their_dtypes():
    cache = 2 * LAYERS * CONTEXT * WIDTH  # numbers a text
    table, positions = VOCABULARY * WIDTH, CONTEXT * WIDTH
    # Norms have a scale and a bias; all dense layers have biases.
    vectors = (2 * LAYERS + 1) * 2 * WIDTH + SCALES
    found = compiled("int8", 2, "bfloat16")
    assert found.parameters == KERNELS + 2 * table + 4 * (positions + vectors + SCALES)
    assert found.cache == 2 * 2 * cache + 4  # and the number of tokens


def test_a_model_that_continues_no_text_is_refused():
    experiment = default_experiment(
        EncoderDecoderConfig(9, 8, num_layers=1, d_model=8, num_heads=1)
    )
    built = build_experiment(experiment, {"vocab_size": 9}, jax.devices()[:1])
    with pytest.raises(UserError, match="encoder_decoder does not continue a text"):
        compile_decoding(built, {}, 1, Described((), "cpu", {}, ""))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights=int8"], "--weights is for --work=decode: training has float32"),
        (["--work=decode", "--devices=8"], "--devices: decoding is compiled for one device"),
    ],
)
def test_flags_that_nothing_reads_are_refused(arguments, message):
    status, out, err = launch("compile_check", "--model=gpt2_small", *arguments)
    assert status == 1 and message in err and not out


def test_the_document_shows_the_cases_that_are_kept():
    kept = json.loads((ROOT / "benchmarks" / "results" / "decoding_bytes.json").read_text("utf-8"))
    page = (ROOT / "docs" / "results" / "compiled.md").read_text("utf-8")
    assert {case.split()[2] for case in kept} == {"h100", "v5e"}
    assert "\n".join(decoding_table(kept)) in page


@pytest.mark.slow
@pytest.mark.parametrize(("name", "batch_size"), [("h100", 1), ("h100", 8), ("v5e", 8)])
def test_what_is_read_of_kernels_is_int8(name, batch_size, monkeypatch):
    """A bfloat16 copy of a kernel, made at every step, would move five bytes a weight."""
    needs_wheels(name)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    given = ["--config=configs/published.py:gpt2_small", "--config.model.num_layers=2"]
    given += ["--work=decode", f"--batch_size={batch_size}", f"--accelerator={name}"]
    plain, small = (check([*given, f"--weights={weights}"]) for weights in ("float32", "int8"))
    kernels = 2 * 12 * 768**2
    assert plain["bytes_moved"] - small["bytes_moved"] == pytest.approx(kernels, rel=0.05)
