"""Language-model research in JAX: every architecture a pure function from parameters to logits."""

__version__ = "0.1.0"
