"""Every test sees eight simulated devices, but for tests/accelerator; and caches of its own."""

import os

# Most of the time of the tests is XLA's: half of it optimizes code that runs for an instant.
QUICK_COMPILATION = "--xla_backend_optimization_level=0"

os.environ["JAX_PLATFORMS"] = os.environ.get("LM_JAX_TEST_PLATFORM", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ["XLA_FLAGS"] = f"{QUICK_COMPILATION} --xla_force_host_platform_device_count=8"

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads what another session cached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
