"""More readers: runs as they are watched, packed data, saved sets, weights, flags and jobs."""

import bz2
import functools
import gzip
import io
import json
import lzma
import struct
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.data import TokenizerConfig
from lm_jax.data.cache import load_split, save_split
from lm_jax.data.classification.image_files import read_images
from lm_jax.data.classification.images import _read_idx
from lm_jax.data.documents import TokenizedDocuments
from lm_jax.data.seq2seq.readers import _pairs
from lm_jax.data.text_stream import stream_texts
from lm_jax.data.tokenizer_files import kind_of_files
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.data.unchanged_files import Memory
from lm_jax.evaluation.word_vectors import analogy_accuracy, similarity_correlation, word_vectors
from lm_jax.interop.import_cache import format_of
from lm_jax.interop.import_model import FORMATS, _tokenizer, _with_opening
from lm_jax.interop.tensor_files import read_tensors
from lm_jax.parallel import launchers, mesh
from lm_jax.runs.chat import chat_template_of, ends_of_answers
from lm_jax.runs.classify import read_texts
from lm_jax.runs.lock import holder
from lm_jax.runs.status import read_status
from lm_jax.sweeps.find_runs import find_runs
from lm_jax.telemetry.run_digests import read_results, refuse_damaged_rows
from lm_jax.telemetry.run_files import read_word_vectors
from lm_jax.training.checkpoints import Checkpoints
from tests.experiments import tiny
from tests.fuzz.target import Target, json_of, saved, text_of

CHECKPOINTS = Path(__file__).parents[1] / "runs" / "made_before" / "stopped" / "checkpoints"
_OWNER = {"host": "h", "machine": "m", "pid": 1, "started": "9", "token": "t"}
_FIGURES = {"cross_entropy": 2.0, "tokens": 9}
_STATUS = {
    "config.json": json.dumps({"training": {"num_steps": 20}}),
    "attempts.json": json.dumps({"attempts": [{"started": 1.5, "step": 0, "pid": 1}]}),
    "evaluation.json": json.dumps({"step": 20, "validation": _FIGURES, "goodput": {"share": 0.5}}),
    "metrics.jsonl": "".join(
        json.dumps({"step": step, "kind": kind, "loss": 2.5, "seconds": step, "tokens": 64 * step})
        + "\n"
        for step in (1, 2, 3)
        for kind in ("train", "evaluation")
    ).replace('"seconds"', '"tokens_per_second": 3.0, "seconds"'),
    "running.json": json.dumps(_OWNER),
    "digests.json": json.dumps({"metrics": {"2": ["0" * 16]}, "files": {"a": ["0" * 16]}}),
}
_SHARDS = {"metadata": {"total_size": 9}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
_JOB = (
    "SLURM_PROCID=1\nSLURM_STEP_NODELIST=gpu[007-010,12]\nSLURM_STEP_NUM_TASKS=4\nSLURM_JOB_ID=77\n"
    "SLURM_STEP_ID=0\nSLURM_STEP_TASKS_PER_NODE=2(x2)\nSLURM_NODEID=1\nSLURM_LOCALID=1\n"
    "SLURM_GPUS_ON_NODE=4\nCUDA_VISIBLE_DEVICES=0,1,2,3\n"
)
_MPI = (
    "OMPI_COMM_WORLD_SIZE=4\nOMPI_COMM_WORLD_RANK=1\nOMPI_COMM_WORLD_LOCAL_RANK=1\n"
    "OMPI_MCA_orte_hnp_uri=1531576320.0;tcp://10.96.0.1,10.148.0.1:34911\n"
)
_EXPLICIT = "JAX_COORDINATOR_ADDRESS=a:1\nJAX_NUM_PROCESSES=4\nJAX_PROCESS_ID=1\n"
_PO = (
    'msgid "a"\nmsgid_plural "b"\nmsgstr[0] "c"\nmsgstr[1] "d"\n\n'
    'msgctxt "x"\nmsgid "e"\nmsgstr "f"\n'
)
_PAIRS_OF_WORDS = "# WordSim\na\tb\t1.5\nb\tc\t2\nc\ta\t0\n"


def _status(path: Path) -> None:
    (run, *_), _notes = find_runs([str(path.parent)])
    read_status(run.name, run.workdir, run.log_error)


def _sweep(path: Path) -> None:
    runs, _ = find_runs([str(path.parent)])
    for run in runs:
        read_status(run.name, run.workdir, run.log_error)


def _digests(path: Path) -> None:
    read_results(path.parent)
    refuse_damaged_rows(path.parent, 3)


def _stream(path: Path) -> None:
    for _ in stream_texts(str(path)):
        pass


def _all_pairs(path: Path) -> None:
    list(_pairs(str(path), Counter()))


def _saved_set(path: Path) -> None:
    for _ in stream_texts(str(path.parent)):
        pass


def _arrow() -> bytes:
    import pyarrow

    table = pyarrow.table({"text": ["a", "b"]})
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _zipped(content: bytes) -> bytes:
    """Returns an npz file whose array is damaged and whose checksum is right."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", content)
    return packed.getvalue()


def _npy() -> bytes:
    written = io.BytesIO()
    np.save(written, np.zeros((2, 3, 4), np.uint8))
    return written.getvalue()


def _idx(path: Path) -> None:
    _read_idx(path.parent, path.name.removesuffix(".gz"))


def _parquet(path: Path) -> None:
    import pyarrow.parquet

    table = pyarrow.table({"text": ["a", "b"] * 9, "l": [[1], [2, 3]] * 9})
    pyarrow.parquet.write_table(table, path, compression="zstd")


def _held_out() -> dict[str, bytes]:
    import tempfile

    tokens = np.array([256, 97, 256, 98, 99, 256], np.uint16)
    sizes = np.array([1, 2])
    split = TokenizedDocuments(tokens, np.array([0, 2, 5]), sizes, sizes, sizes)
    with tempfile.TemporaryDirectory() as folder:
        save_split(split, Path(folder), "test")
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _always(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def _load_held_out(path: Path) -> None:
    try:
        found = load_split(TokenizedDocuments, path.parent, "test")
    except ValueError:  # what a cache that is damaged raises: it is made anew
        return
    for first, last in zip(found.starts[:-1] + 1, found.starts[1:], strict=True):
        found.tokens[first:last].sum()
    (found.characters + found.bytes + found.words + np.diff(found.starts)).sum()


def _safetensors(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros((2, 3), np.float32)}, path)


def _read_weights(path: Path) -> None:
    for tensor in read_tensors(path.parent).values():
        tensor.read()


def _gguf(path: Path) -> None:
    from tests.interop.test_gguf_files import write

    write(path, {"token_embd.weight": np.zeros((2, 2), np.float32)})


def _open_gguf(path: Path) -> None:
    folder = path.with_name("files")
    folder.mkdir(exist_ok=True)
    source = FORMATS["gguf"](path, folder)
    tokenizer = _with_opening(source, _tokenizer(source))
    tokenizer.decode(tokenizer.encode("Hello 123"))


def _their_special_tokens(path: Path) -> None:
    ends_of_answers(path.parent)
    kind_of_files(path.parent)
    format_of(path.parent)
    format_of(path)


def _vectors() -> Any:
    return word_vectors(["a", "b", "c", "d"], np.random.default_rng(0).normal(size=(4, 3)))


def _job(path: Path) -> None:
    text = path.read_text("utf-8", "replace")
    launchers.find(dict(line.split("=", 1) for line in text.split("\n") if "=" in line))


def _mesh(path: Path) -> None:
    mesh.axis_sizes(path.read_text("utf-8", "replace"), 8)


@functools.cache
def _pieces() -> bytes:
    return train_tokenizer(TokenizerConfig("char", vocab_size=300), ["Hello world"] * 9).model


def _their_pieces(path: Path) -> None:
    train_tokenizer(TokenizerConfig("sentencepiece", path=str(path.parent)), [])


def _ranks() -> bytes:
    import base64

    rows = [f"{base64.b64encode(bytes([i])).decode()} {i}\n" for i in range(256)]
    return "".join(rows).encode()


def _their_ranks(path: Path) -> None:
    train_tokenizer(TokenizerConfig("tiktoken", path=str(path)), [])


def _restore(path: Path) -> None:
    directory = next(each for each in path.parents if each.name == "checkpoints")
    with Checkpoints(directory, tiny().checkpoint, read_only=True) as checkpoints:
        checkpoints.restore(None, "best", lambda line: None)


def _zstd(content: bytes) -> bytes:
    import zstandard

    return zstandard.compress(content)


def _checkpoint_files() -> dict[str, bytes]:
    return {
        f"checkpoints/{path.relative_to(CHECKPOINTS)}": path.read_bytes()
        for path in CHECKPOINTS.rglob("*")
        if path.is_file()
    }


def _of_status(name: str) -> Target:
    return Target(f"status_{name}", name, text_of(_STATUS[name]), _status, _STATUS)


def _packed(name: str, suffix: str, pack: Callable[[bytes], bytes]) -> Target:
    lines = text_of('{"text": "a\\u00e9", "n": [1]}\n' * 3)
    return Target(name, f"a.jsonl.{suffix}", lines, _stream, pack=pack)


def _of_checkpoint(name: str, file: str) -> Target:
    seed = (CHECKPOINTS / file).read_bytes
    return Target(name, f"checkpoints/{file}", seed, _restore, _checkpoint_files(), 1)


_ALL = (
    *map(_of_status, _STATUS),
    Target("run_digests", "digests.json", text_of(_STATUS["digests.json"]), _digests, _STATUS),
    Target(
        "lock", "running.json", text_of(_STATUS["running.json"]), lambda path: holder(path.parent)
    ),
    Target(
        "sweep_runs",
        "sweep.json",
        json_of({"a": {"address": "ab"}, "b": {"address": "cd"}}),
        _sweep,
        {"logs/a-ab.log": "error: x\n", "runs/a-ab/config.json": "{}"},
    ),
    Target(
        "log_of_run",
        "logs/a-ab.log",
        text_of("--- begins: a\nerror: x\n"),
        lambda path: _sweep(path.parent),
        {"sweep.json": '{"a": {"address": "ab"}}'},
    ),
    Target(
        "word_vectors",
        "word_vectors.json",
        json_of(
            {
                "step": 1,
                "similarities": {"a": {"spearman": 0.5, "pairs": 3, "of": 4}},
                "analogies": {"b": {"right": 1, "asked": 2, "of": 3}},
            }
        ),
        read_word_vectors,
    ),
    Target(
        "word_pairs",
        "a.tsv",
        text_of(_PAIRS_OF_WORDS),
        lambda path: similarity_correlation(_vectors(), path),
    ),
    Target(
        "analogies",
        "a.txt",
        text_of(": x\na b c d\nb a d c\n"),
        lambda path: analogy_accuracy(_vectors(), path),
    ),
    Target("texts_to_classify", "a.csv", text_of('text,n\n"a, b",1\nc,2\n'), read_texts),
    Target(
        "remembered",
        "a.json",
        json_of({"key": "ab", "description": {"a": [1]}}),
        lambda path: Memory(path).recall(),
    ),
    *[
        Target(f"held_out_{name[5:-4]}", name, _always(content), _load_held_out, _held_out())
        for name, content in sorted(_held_out().items())
    ],
    Target(
        "saved_set",
        "state.json",
        json_of({"_data_files": [{"filename": "data-00000.arrow"}], "_split": None}),
        _saved_set,
        {"dataset_info.json": "{}", "data-00000.arrow": _arrow()},
    ),
    Target(
        "saved_splits",
        "dataset_dict.json",
        json_of({"splits": ["train"]}),
        _saved_set,
        {
            "train/state.json": '{"_data_files": [{"filename": "data-00000.arrow"}]}',
            "train/dataset_info.json": "{}",
            "train/data-00000.arrow": _arrow(),
        },
    ),
    _packed("packed_gzip", "gz", lambda content: gzip.compress(content, 1, mtime=0)),
    _packed("packed_bzip2", "bz2", bz2.compress),
    _packed("packed_xz", "xz", lzma.compress),
    _packed("packed_zstd", "zst", _zstd),
    Target("bzip2", "a.txt.bz2", lambda: bz2.compress(b"text " * 20), _stream),
    Target("xz", "a.txt.xz", lambda: lzma.compress(b"text " * 20), _stream),
    Target("parquet_zstd", "a.parquet", saved(_parquet), _stream, {}, 12),
    Target(
        "packed_idx",
        "a.gz",
        lambda: struct.pack(">HBBII", 0, 8, 2, 2, 3) + bytes(6),
        _idx,
        pack=lambda content: gzip.compress(content, 1, mtime=0),
    ),
    Target(
        "packed_npz",
        "a.npz",
        _npy,
        lambda path: read_images([str(path)], (3, 4, 1)),
        pack=_zipped,
    ),
    Target("pairs_po_plural", "a.po", text_of(_PO), _all_pairs),
    Target(
        "shards",
        "model.safetensors.index.json",
        json_of(_SHARDS),
        _read_weights,
        {_SHARDS["weight_map"]["a"]: saved(_safetensors)()},
    ),
    Target("gguf_model", "a.gguf", saved(_gguf), _open_gguf),
    Target(
        "generation_config",
        "generation_config.json",
        json_of({"eos_token_id": [1, 2], "model_type": "gpt2"}),
        _their_special_tokens,
        {"config.json": '{"model_type": "gpt2"}'},
    ),
    Target(
        "chat_template_file",
        "chat_template.jinja",
        text_of("{% for m in messages %}{{ m.role }}: {{ m['content'] }}\n{% endfor %}"),
        lambda path: chat_template_of(path.parent).fill([{"role": "user", "content": "a"}]),
    ),
    Target("their_pieces", "tokenizer.model", _pieces, _their_pieces),
    Target("their_ranks", "a.tiktoken", _ranks, _their_ranks, {}, 12),
    Target("job_of_slurm", "job", text_of(_JOB), _job),
    Target("job_of_mpi", "job", text_of(_MPI), _job),
    Target("job", "job", text_of(_EXPLICIT), _job),
    Target("mesh", "mesh", text_of("data:2,fsdp:-1,tensor:1"), _mesh),
    _of_checkpoint("checkpoint_metrics", "6/metrics/metrics"),
    _of_checkpoint("checkpoint_description", "6/_CHECKPOINT_METADATA"),
    _of_checkpoint("checkpoint_index", "6/default/manifest.ocdbt"),
    _of_checkpoint("checkpoint_sharding", "6/default/_sharding"),
)
# There are many: the quick test tries few damages of each.
OTHERS = tuple(target._replace(examples=min(target.examples, 10)) for target in _ALL)
