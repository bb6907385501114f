"""The kinds of data by name, and the fields of their configurations that say where data is.

Each kind has a dataclass beside its readers. What can be chosen by name is the keys of a
dictionary, which stands where the choices are implemented. A reader or a tokenizer from outside is
named `module:ATTRIBUTE` or `path/to/file.py:ATTRIBUTE`.
"""

from lm_jax.data.classification.config import ImageConfig, LabelledTextConfig
from lm_jax.data.seq2seq.config import ParallelTextConfig
from lm_jax.data.text.config import DataConfig

KINDS = {
    config.kind: config
    for config in (DataConfig, LabelledTextConfig, ParallelTextConfig, ImageConfig)
}

PLACES = (
    "path",
    "sources",
    "tasks",
    "target_path",
    "validation_path",
    "validation_target_path",
    "test_path",
    "test_target_path",
)
"""Fields that say where data is. A run knows its data by a fingerprint, so they may change."""
