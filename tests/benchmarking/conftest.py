import pytest

from lm_jax.benchmarking import mfu


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    """Makes the matrix products that are timed small."""
    monkeypatch.setattr(mfu, "_SIZES", {"cpu": (64, 1)})
