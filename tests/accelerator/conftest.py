"""What only a GPU can tell: LM_JAX_TEST_PLATFORM=cuda pytest -n 0 tests/accelerator."""

import os

collect_ignore_glob = ["test_*.py"] if os.environ["JAX_PLATFORMS"] == "cpu" else []
