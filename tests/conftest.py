"""Every test sees eight simulated devices, but for tests/accelerator; and caches of its own."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# Most of the time of the tests is XLA's: half of it optimizes code that runs for an instant.
QUICK_COMPILATION = "--xla_backend_optimization_level=0"

os.environ["JAX_PLATFORMS"] = os.environ.get("LM_JAX_TEST_PLATFORM", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ["XLA_FLAGS"] = f"{QUICK_COMPILATION} --xla_force_host_platform_device_count=8"

# No test reads what another session cached; the workers of one session and the programs that they
# start share what they prepare and compile.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _caches = tempfile.mkdtemp(prefix="lm_jax_tests")
    atexit.register(shutil.rmtree, _caches, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = _caches
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(_caches) / "xla")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
