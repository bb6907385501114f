import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from lm_jax.errors import UserError
from lm_jax.parallel.xla_flags import PRESETS, step_options, use_preset

FLAGS = sorted({(flag, value) for preset in PRESETS.values() for flag, value in preset.items()})


@pytest.mark.parametrize(("flag", "value"), FLAGS)
def test_the_installed_compiler_knows_every_flag(flag, value):
    """XLA takes what it would read from XLA_FLAGS as an option of one program, too."""
    lowered = jax.jit(lambda x: x + 1).lower(jnp.float32(0))
    lowered.compile(compiler_options={flag: value})
    with pytest.raises(jax.errors.JaxRuntimeError):
        lowered.compile(compiler_options={flag: "no such value"})


def test_a_preset_reaches_the_compiler_and_the_shell_has_the_last_word(tmp_path):
    code = (
        "import jax; from lm_jax.parallel.xla_flags import use_preset; use_preset('gpu_tensor');"
        "jax.jit(lambda x: x + 1)(1.0)"
    )
    shell = "--xla_gpu_enable_pipelined_all_gather=false --xla_dump_hlo_as_text"
    environment = os.environ | {"XLA_FLAGS": f"{shell} --xla_dump_to={tmp_path}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    options = next(tmp_path.glob("*.debug_options")).read_text().splitlines()
    said = dict(line.strip().split(": ") for line in options if line.startswith("xla_gpu"))
    # XLA prints what is not its default: no preset sets what it does anyway. Some installations
    # have defaults of their own, of other flags.
    assert {flag: said[flag] for flag in said.keys() & PRESETS["gpu_tensor"].keys()} == {
        "xla_gpu_enable_latency_hiding_scheduler": "true",
        "xla_gpu_enable_pipelined_all_reduce": "true",
        "xla_gpu_enable_while_loop_double_buffering": "true",
        "xla_gpu_threshold_for_windowed_einsum_mib": "0",
    }


def test_none_changes_nothing(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--mine=1")
    use_preset("none")
    assert os.environ["XLA_FLAGS"] == "--mine=1"


def test_a_preset_that_comes_too_late_or_is_unknown_is_refused(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--mine=1")
    jax.devices()
    with pytest.raises(UserError, match="XLA preset gpu comes too late"):
        use_preset("gpu")
    with pytest.raises(UserError, match="XLA preset 'fast' is unknown; expected one of none, gpu"):
        use_preset("fast")
    assert os.environ["XLA_FLAGS"] == "--mine=1"


def test_steps_have_options_where_the_device_can_hold_what_they_fuse():
    for kind in ("TPU v5 lite", "TPU v5", "TPU v6 lite"):
        options = step_options("tpu", kind)
        assert options["xla_tpu_enable_async_collective_fusion_fuse_all_reduce"] is True
    assert step_options("tpu", "TPU v4") == {} == step_options("cpu", "cpu")
    assert step_options("cuda", "NVIDIA H100 80GB HBM3")
