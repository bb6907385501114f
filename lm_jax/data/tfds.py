"""Data sets of tensorflow-datasets, read without TensorFlow."""

from collections.abc import Mapping
from typing import Any

from lm_jax.data.cache import cache_directory
from lm_jax.errors import UserError


def builder_of(name: str, cache: str) -> Any:
    """Returns the builder of a data set, which is downloaded and prepared if it is not yet.

    Args:
      cache: the directory that `data.cache_directory` gives; "": the default one.

    Raises:
      UserError: the data set cannot be had.
    """
    import tensorflow_datasets as tfds
    import tensorflow_datasets.translate  # noqa: F401  registers wmt14_translate and the like

    from lm_jax.data import tfds_builder

    directory = cache_directory(cache) / "tensorflow_datasets"
    arguments = {"data_dir": str(directory), "file_format": "array_record"}
    try:
        if name == tfds_builder.NAME:
            builder = tfds_builder.PythonReference(**arguments)
        else:
            builder = tfds.builder(name, try_gcs=False, **arguments)
        builder.download_and_prepare()
    except Exception as error:  # tfds and its transports raise dozens of types
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"tfds data set {name!r} cannot be had ({type(error).__name__}: {reason}); "
            "check its name and the network"
        ) from None
    return builder


def text(value: str | bytes) -> str:
    """Returns the text of a feature, which a data source may give as bytes."""
    return value if isinstance(value, str) else bytes(value).decode("utf-8")


def text_features(features: Mapping[str, object]) -> list[str]:
    """Returns the names of the features that are texts."""
    return [name for name, feature in features.items() if type(feature).__name__ == "Text"]
