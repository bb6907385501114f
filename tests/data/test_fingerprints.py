"""The fingerprints of prepared data, against those that runs before recorded: runs resume on them.

A resumed run refuses data whose fingerprint differs from its own, so a change here stops every run.
"""

import json

import numpy as np
import pytest

from lm_jax.data import (
    DataConfig,
    ImageConfig,
    LabelledTextConfig,
    ParallelTextConfig,
    SymbolsConfig,
    TokenizerConfig,
    prepare,
)

BYTES = TokenizerConfig("byte")
WORDS = "apple river stone cloud tiger paper green silver window garden music orange".split()
LINES = [" ".join(np.random.default_rng(n).permutation(WORDS)[:7]) for n in range(60)]


def _corpus(place, **fields):
    (place / "a.txt").write_text("\n\n".join(LINES))
    (place / "b.txt").write_text("\n\n".join(LINES[30:] + [line.upper() for line in LINES[:20]]))
    return DataConfig(**{"source": "files", "path": str(place), "tokenizer": BYTES} | fields)


def _documents(place, **fields):
    for number, line in enumerate(LINES):
        (place / f"{number:02}.txt").write_text(line)
    return DataConfig(**{"source": "files", "path": str(place), "tokenizer": BYTES} | fields)


def _labelled(place, **fields):
    rows = [f"{'even' if n % 2 == 0 else 'odd'}\t{line}\n" for n, line in enumerate(LINES)]
    (place / "labelled.tsv").write_text("".join([*rows, *rows[:5], f"odd\t{LINES[0]}\n"]))
    return LabelledTextConfig(path=str(place / "labelled.tsv"), **fields)


def _held_out(place):
    (place / "held.tsv").write_text(f"even\t{LINES[4]}\nodd\tnever seen before\n")
    return _labelled(place, validation_path=str(place / "held.tsv"))


def _pairs(place, **fields):
    rows = [f"{line}\t{line[::-1]}\tdocument {n // 5}\n" for n, line in enumerate(LINES)]
    (place / "pairs.tsv").write_text("".join(rows))
    common = {"path": str(place / "pairs.tsv"), "tokenizer": BYTES, "validation_fraction": 0.4}
    return ParallelTextConfig(**(common | fields))


def _held_out_pairs(place):
    (place / "held.tsv").write_text(f"{LINES[3]}.\tanother\nsomething new\tneu\n")
    return _pairs(place, validation_path=str(place / "held.tsv"), longest_characters=43)


def _tasks(place):
    _pairs(place)
    (place / "more.jsonl").write_text(
        "".join(json.dumps({"source": s, "target": f"{n % 3}"}) + "\n" for n, s in enumerate(LINES))
    )
    tasks = f"turn={place / 'pairs.tsv'}; rate={place / 'more.jsonl'}"
    return _pairs(place, path="", tasks=tasks, drop_near_copies=False)


def _images(place):
    images = np.random.default_rng(0).integers(256, size=(20, 4, 4)).astype(np.uint8)
    np.savez(place / "images.npz", x_train=images, y_train=np.arange(20) % 3)
    return ImageConfig(source="npz", path=str(place / "images.npz"), validation_fraction=0.2)


RECORDED = {
    "documents": "006cc4e546da 239229f96d4d",
    "documents with words": "e3c01832bcd2 239229f96d4d",
    "tail": "a6f236916d39 c890cfce41c4",
    "repeated paragraphs kept": "c333fd8e351d c890cfce41c4",
    "labelled texts": "0b269b7a7520 976658cf6455",
    "labelled texts held out": "54a7a8a72c1f ac434c8db50b",
    "pairs": "fe9835568d35 50da7f9d3edb",
    "pairs with words": "ee3094b75be6 50da7f9d3edb",
    "pairs held out": "92f432b4342f 611e84a6a6bd",
    "tasks": "3b6bf733cfdc 626c6a64b70d",
    "symbols": "900cba4928c9 0c189e7367ca",
    "images": "56f1aa3fd1f4 56f1aa3fd1f4",
}
CONFIGS = {
    "documents": _documents,
    "documents with words": lambda p: _documents(p, tokenizer=TokenizerConfig("word", 50)),
    "tail": lambda p: _corpus(p, split="tail"),
    "repeated paragraphs kept": lambda p: _corpus(p, split="tail", drop_repeated_paragraphs=False),
    "labelled texts": _labelled,
    "labelled texts held out": _held_out,
    "pairs": _pairs,
    "pairs with words": lambda p: _pairs(p, tokenizer=TokenizerConfig("word", 50)),
    "pairs held out": _held_out_pairs,
    "tasks": _tasks,
    "symbols": lambda _: ParallelTextConfig(
        source="sort", tokenizer=BYTES, symbols=SymbolsConfig(num_training_pairs=200)
    ),
    "images": _images,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_data_is_recognised_by_runs_of_earlier_releases(name, tmp_path):
    found = prepare(CONFIGS[name](tmp_path)).description
    assert [found["fingerprint"][:12], found["sha256"][:12]] == RECORDED[name].split()
