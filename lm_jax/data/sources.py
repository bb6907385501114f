"""Sources of documents: what Python itself carries, files, tensorflow-datasets."""

import glob
import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lm_jax.data.config import DataConfig
from lm_jax.data.embedded import python_reference, standard_library
from lm_jax.errors import UserError


class Documents(NamedTuple):
    """Raw documents; `validation` is None where the source does not split them itself."""

    texts: list[str]
    validation: list[str] | None
    description: dict[str, Any]


def load(config: DataConfig, cache: Path) -> Documents:
    """The documents of a configuration, empty ones left out.

    Raises:
      UserError: nothing was found, a file is not UTF-8, or a data set cannot be had.
    """
    if config.source == "files":
        documents = _files(config.path)
    elif config.source == "tfds":
        documents = _tfds(config, cache / "tensorflow_datasets")
    else:
        read = standard_library if config.source == "stdlib" else python_reference
        # It differs between releases.
        documents = Documents(read(), None, {"python": platform.python_version()})
    texts = [text for text in documents.texts if text.strip()]
    if not texts:
        place = config.path or config.source
        raise UserError(f"the corpus {place} is empty: no document holds any text")
    return documents._replace(texts=texts)


def sha256(texts: Iterable[str]) -> str:
    """The digest of a list of documents, each told from the next."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _files(path: str) -> Documents:
    paths = find_files(path)
    return Documents([read_text(file) for file in paths], None, {"files": len(paths)})


def find_files(path: str) -> list[Path]:
    """The files of a path, all files of a directory, or those that match a pattern.

    Raises:
      UserError: there are none.
    """
    found = Path(path)
    if found.is_dir():
        # Hidden files and folders are an editor's or a version control's, not the corpus.
        paths = sorted(
            file
            for file in found.rglob("*")
            if file.is_file() and not any(p.startswith(".") for p in file.relative_to(found).parts)
        )
    elif found.is_file():  # whatever its name holds: `[` is no pattern then
        paths = [found]
    else:
        paths = sorted(Path(name) for name in glob.glob(path, recursive=True))
        paths = [file for file in paths if file.is_file()]
    if not paths:
        raise UserError(f"no file matches data.path {path!r} (from {os.getcwd()})")
    return paths


def read_text(path: Path) -> str:
    """The text of a file, its line ends as they are. Raises UserError if it is not UTF-8."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte {raw[error.start]:#04x} at offset {error.start}; "
            "convert it (iconv -t utf-8) or leave it out of data.path"
        ) from None


def cache_directory(configured: str) -> Path:
    """Where prepared data is kept."""
    if configured:
        return Path(configured)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "lm_jax" / "data"


def tfds_builder_of(name: str, directory: Path) -> Any:
    """The tensorflow-datasets builder of a name, its data at hand.

    Raises:
      UserError: it cannot be had.
    """
    import tensorflow_datasets as tfds
    import tensorflow_datasets.translate  # noqa: F401  wmt14_translate and its like are known then

    from lm_jax.data import tfds_builder

    arguments = {"data_dir": str(directory), "file_format": "array_record"}
    try:
        if name == tfds_builder.NAME:
            builder = tfds_builder.PythonReference(**arguments)
        else:
            builder = tfds.builder(name, try_gcs=False, **arguments)
        builder.download_and_prepare()
    except Exception as error:  # tfds and its transports raise dozens of kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"tfds data set {name!r} cannot be had ({type(error).__name__}: {reason}); "
            "check its name and the network"
        ) from None
    return builder


def tfds_text(value: Any) -> str:
    """The text of a feature, which a data source may give as bytes."""
    return value if isinstance(value, str) else bytes(value).decode("utf-8")


def _tfds(config: DataConfig, directory: Path) -> Documents:
    builder = tfds_builder_of(config.path, directory)
    feature = _text_feature(config, builder.info.features)

    def read(split: str) -> list[str]:
        source = builder.as_data_source(split=split)
        return [tfds_text(example[feature]) for example in source]

    splits = builder.info.splits
    validation = read("validation") if "validation" in splits else None
    description = {"data_set": builder.info.full_name, "text_feature": feature}
    return Documents(read("train"), validation, description)


def _text_feature(config: DataConfig, features: Any) -> str:
    names = [name for name, feature in features.items() if type(feature).__name__ == "Text"]
    if config.text_feature:
        if config.text_feature not in names:
            raise UserError(
                f"data.text_feature {config.text_feature!r} is no text of {config.path}; "
                f"it has {', '.join(names) or 'none'}"
            )
        return config.text_feature
    if len(names) != 1:
        raise UserError(
            f"{config.path} has {len(names)} text features ({', '.join(names)}); "
            "choose one with data.text_feature"
        )
    return names[0]
