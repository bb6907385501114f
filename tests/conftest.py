"""Every test sees eight simulated devices, but for tests/accelerator; and caches of its own."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

# Most of the time of the tests is XLA's compiler's, for code that runs for an instant. The fusions
# that it emits through MLIR take it twice as long, and threads cost more than they save.
QUICK_COMPILATION = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_multi_thread_eigen=false",
    ]
)

os.environ["JAX_PLATFORMS"] = os.environ.get("LM_JAX_TEST_PLATFORM", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ["XLA_FLAGS"] = f"{QUICK_COMPILATION} --xla_force_host_platform_device_count=8"

# No test reads what another session cached; the workers of one session and the programs that they
# start share what they prepare and compile.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _caches = tempfile.mkdtemp(prefix="lm_jax_tests")
    atexit.register(shutil.rmtree, _caches, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = _caches
    os.environ["XDG_STATE_HOME"] = str(Path(_caches) / "state")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(_caches) / "xla")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def slow_but(names: Iterable[Any], *quick: Any) -> list:
    """Returns parameters of a test, of which `make test` takes the quick ones alone."""
    names = list(names)
    assert all(q in names for q in quick)
    return [n if n in quick else _slow(n) for n in names]


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a trained language model of bytes, on one device: two layers of 32."""
    import jax

    from lm_jax.data import DataConfig, TokenizerConfig
    from lm_jax.runs.train import train
    from tests.experiments import tiny

    place = tmp_path_factory.mktemp("language_model")
    text = "\n".join(f"{i} times {i + 3} is {i * (i + 3)}." for i in range(300))
    (place / "text.txt").write_text(text)
    data = DataConfig(
        source="files",
        path=str(place / "text.txt"),
        split="tail",
        cache_directory=str(place / "cache"),
        tokenizer=TokenizerConfig("byte"),
    )
    experiment = tiny(data=data, training__num_steps=5, schedule__warmup_steps=2)
    experiment.model.num_layers = 2
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: first)
        patch.setattr("lm_jax.runs.recorder.inspect", lambda *_: {})
        train(experiment, place / "run")
    return place / "run"


@pytest.fixture
def without_analysis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs look inside no model once they are trained: for tests of many runs."""
    monkeypatch.setattr("lm_jax.runs.recorder.inspect", lambda *_: {})


def _slow(value: Any) -> Any:
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=pytest.mark.slow)
