"""Data sets of tensorflow-datasets, read without TensorFlow."""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from lm_jax.data.cache import cache_directory
from lm_jax.errors import UserError

# kaggle:NAME; a version, NAME:1.0.0, begins with a digit.
_OF_A_COMMUNITY = re.compile(r"[\w/-]+:[^\d*]")


class PathConfig(Protocol):
    """What configurations of data sets have."""

    path: str
    test_path: str
    cache_directory: str


def builder_of(name: str, cache: str) -> Any:
    """Returns the builder of a data set, which is downloaded and prepared if it is not yet.

    Args:
      cache: the directory that `data.cache_directory` gives; "": the default one.

    Raises:
      UserError: the data set cannot be had, or is of a community, whose code tfds would download
        and run, also where a stranger's `config.json` names it.
    """
    if _OF_A_COMMUNITY.match(name):
        raise UserError(
            f"tfds data set {name!r} is of a community, whose code tfds would download and run; "
            "give one of tensorflow-datasets itself, or prepare it yourself and read its files"
        )
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


def splits(builder: Any, config: PathConfig, test_validates: bool = False) -> dict[str, Any]:
    """Returns the data sources of the splits `train`, `validation` and `test` that there are.

    The test split is that of the data set `config.test_path`, which may be the same data set.

    Args:
      test_validates: where no test split is wanted, that of the data set is for validation.

    Raises:
      UserError: `config.test_path` cannot be had, or has no test split.
    """
    found = {"train": builder.as_data_source(split="train")}
    validation = "test" if test_validates and not config.test_path else "validation"
    if validation in builder.info.splits:
        found["validation"] = builder.as_data_source(split=validation)
    if config.test_path:
        if config.test_path != config.path:
            builder = builder_of(config.test_path, config.cache_directory)
        if "test" not in builder.info.splits:
            raise UserError(
                f"data.test_path {config.test_path!r} has no test split; it has "
                f"{', '.join(builder.info.splits)}"
            )
        found["test"] = builder.as_data_source(split="test")
    return found


def text(value: str | bytes) -> str:
    """Returns the text of a feature, which a data source may give as bytes."""
    return value if isinstance(value, str) else bytes(value).decode("utf-8")


def text_features(features: Mapping[str, object]) -> list[str]:
    """Returns the names of the features that are texts."""
    return [name for name, feature in features.items() if type(feature).__name__ == "Text"]
