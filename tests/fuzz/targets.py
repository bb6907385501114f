"""The readers of files that others may have written, each with a small whole file."""

import functools
import gzip
import io
import json
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.config.serialization import dumps
from lm_jax.config.tasks import TaskConfig
from lm_jax.config.validation import validate_values
from lm_jax.data.arrays import map_array
from lm_jax.data.classification.image_files import read_images
from lm_jax.data.classification.images import _read_idx
from lm_jax.data.classification.labelled_text import _read_file
from lm_jax.data.seq2seq.readers import _pairs
from lm_jax.data.text_stream import stream_texts
from lm_jax.data.token_files import open_token_file
from lm_jax.data.tokenizer_config import TokenizerConfig
from lm_jax.data.tokenizers import load_tokenizer, train_tokenizer
from lm_jax.digests import find_damage
from lm_jax.evaluation.tasks import read_task
from lm_jax.interop.architectures import architecture_of, our_config, read_config
from lm_jax.interop.gguf_files import read_gguf
from lm_jax.interop.tensor_files import read_tensors
from lm_jax.reports.compare_runs import compare
from lm_jax.reports.png import png
from lm_jax.reports.run_report import write_report
from lm_jax.runs.chat import chat_template_of
from lm_jax.runs.origin import origin
from lm_jax.runs.text_evaluation import Kept, kept_line
from lm_jax.runs.translate import read_sources
from lm_jax.runs.workdir import read_by_position, read_experiment, read_sizes
from lm_jax.scaling_laws.observations import known_columns, read_points
from lm_jax.sweeps.directory import read_plan
from lm_jax.sweeps.results import read_results
from lm_jax.training.checkpoints import Checkpoints
from lm_jax.user_templates import UserTemplate
from tests.experiments import tiny
from tests.fuzz.other_targets import OTHERS
from tests.fuzz.target import Target, json_of, saved, text_of

CHECKPOINTS = Path(__file__).parents[1] / "runs" / "made_before" / "stopped" / "checkpoints"
FIGURES = {"cross_entropy": 2.0, "bits_per_character": 2.0, "accuracy": 0.5, "tokens": 9}
ROWS = [
    {"step": 1, "kind": "train", "loss": 2.5, "tokens": 64, "tokens_per_second": 3.0},
    {"step": 2, "kind": "evaluation", **FIGURES, "sources": {"a": FIGURES}},
]
RUN = {
    "metrics.jsonl": "".join(f"{json.dumps(row)}\n" for row in ROWS),
    "config.json": dumps(tiny()),
    "data.json": json.dumps(
        {"sha256": "ab", "split": "tail", "sizes": {"vocab_size": 9}, "train": {"tokens": 9}}
    ),
    "evaluation.json": json.dumps(
        {
            "step": 2,
            "parameters": 10,
            "validation": FIGURES | {"accuracy_standard_error": 0.01, "tasks": {"t": FIGURES}},
            "baselines": {"xz": 2.5},
            "timings": {"total_seconds": 7.0, "tokens_per_second": 9.0},
            "goodput": {"steps": 1.0, "share": 0.5},
            "profile": {"seconds": {"dot": 1.0}, "steps": [1, 2]},
        }
    ),
}
WAITING = {"tokens": ["a"], "probabilities": [0.5], "after": "x", "next": "a"}
CROSS = {"readers": ["a"], "read": ["b"], "layers": [1], "heads": [1], "maps": [[["1000"]]]}
INSPECTION = {
    "labels": ["a", "b"],
    "confusion": [[1, 2], [3, 4]],
    "filters": png(np.eye(2)),
    "mistakes": [{"label": "a", "predicted": "b", "probability": 0.5, "text": "x"}],
    "boundary": {"probabilities": [[0.1]], "points": [[0.0, 1.0]], "labels": [1]},
    "expert_loads": {"stack": [[1, 2]]},
    "embedding": {"words": ["a"], "points": [[0, 1]], "neighbours": {"a": ["b"]}},
    "next_tokens": {"text": "x", "source": None, "steps": [WAITING]},
    "beams": [{"parent": -1, "tokens": ["a"], "log_probability": 0.0, "rank": 0, "score": 0.0}],
    "attention": {"cross": CROSS},
}
TEXTS = ["Hello world, hello!\n", "naïve café <|endoftext|> ▁x"]


def _page(path: Path) -> None:
    write_report(path.parent)
    compare([path.parent])


def _config(path: Path) -> None:
    validate_values(read_experiment(path.parent))


def _use_tokenizer(path: Path) -> None:
    tokenizer = load_tokenizer(path.parent)
    for text in TEXTS:
        tokenizer.decode(tokenizer.encode(text))


def _trained(kind: str, **fields: Any) -> bytes:
    return train_tokenizer(TokenizerConfig(kind, **fields), TEXTS * 9).model


def _saved_as(kind: str) -> dict[str, str]:
    return {"tokenizer.json": json.dumps({"kind": kind})}


def _vocabulary() -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "added_tokens": [{"id": 3, "content": "</s>", "special": True, **flags}],
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "<unk>": 2}, "unk_token": "<unk>"},
    }


def _merges() -> dict[str, Any]:
    pattern = {"Regex": "\\p{L}+| ?[^\\s]"}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps = [{"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}, level]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    return _vocabulary() | {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, replace]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
            "pair": [],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [3], "tokens": ["</s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [level, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "vocab": {"a": 0, "b": 1, "ab": 2},
            "merges": [["a", "b"]],
            "byte_fallback": True,
        },
    }


def _unigram() -> dict[str, Any]:
    vocabulary = [["<unk>", 0.0], ["a", -1.5], ["ab", -2.0]]
    return _vocabulary() | {
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": False},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"},
        "decoder": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"},
    }


def _hugging_face(path: Path) -> None:
    tokenizer = train_tokenizer(TokenizerConfig("huggingface", path=str(path)), [])
    for text in TEXTS:
        tokenizer.decode(tokenizer.encode(text))


def _ranks() -> bytes:
    import base64

    rows = [f"{base64.b64encode(bytes([i])).decode()} {i}\n" for i in range(256)]
    return "".join(rows).encode()


def _image(shape: tuple[int, int, int]) -> Callable[[Path], object]:
    return lambda path: read_images([str(path)], shape)


def _picture(path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((3, 4), np.uint8)).save(path, "PNG")


def _tokens(path: Path) -> None:
    found = open_token_file(path, end_of_document=1, vocab_size=50)
    assert found.tokens.sum() >= 0


def _llm_c() -> bytes:
    tokens = np.array([1, 2, 3, 1, 4], "<u2").tobytes()
    return struct.pack("<3i", 20240520, 1, 5).ljust(1024, b"\0") + tokens


def _megatron() -> bytes:
    header = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, 2, 3)
    arrays = np.array([3, 2], "<i4"), np.array([0, 6], "<i8"), np.array([0, 1, 2], "<i8")
    return header + b"".join(array.tobytes() for array in arrays)


def _parquet(path: Path) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "n": [1, 2]}), path)


def _arrow() -> bytes:
    import pyarrow

    table = pyarrow.table({"text": TEXTS, "n": [1, 2]})
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _zstd() -> bytes:
    import zstandard

    return zstandard.compress("".join(TEXTS).encode())


def _warc() -> bytes:
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>a &amp; b</p>"
    head = f"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head.encode() + body + b"\r\n\r\n") * 2


def _stream(path: Path) -> None:
    for _ in stream_texts(str(path)):
        pass


def _all_pairs(path: Path) -> None:
    list(_pairs(str(path), Counter()))


def _labelled(path: Path) -> None:
    _read_file(path, "data.path")


def _law(path: Path) -> None:
    read_points(path, {"n": "n", "loss": known_columns(path)["loss"]}, ["a=x"], "a", ["n"])


def _gguf(path: Path) -> None:
    from tests.interop.test_gguf_files import write

    write(path, {"token_embd.weight": np.zeros((2, 2), np.float32)})


def _read_gguf(path: Path) -> None:
    for tensor in read_gguf(path).tensors.values():
        tensor.read()


def _safetensors(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros((2, 3), np.float32), "b": np.ones(2, np.float16)}, path)


def _read_safetensors(path: Path) -> None:
    for tensor in read_tensors(path.parent).values():
        tensor.read()


def _their_config(path: Path) -> None:
    values = read_config(path.parent)
    architecture, _ = architecture_of(values)
    our_config(architecture, values)


def _array(path: Path) -> None:
    try:
        assert map_array(path).sum() is not None
    except ValueError:  # what a cache that is damaged raises: it is made anew
        pass


def _checkpoint(path: Path) -> None:
    directory = path.parents[2]
    with Checkpoints(directory, tiny().checkpoint, read_only=True) as checkpoints:
        for array in checkpoints.saved_params("last")[1].values():
            array.read()


_CSV = "n,loss,a\n1e6,3.5,x\n2e6,3.1,x\n4e6,2.9,y\n"
_RESULTS = (
    "name,address,status,family,seed,steps,non_embedding_parameters,training_tokens,"
    "training_flops,validation_loss\nr,ab,finished,transformer,0,3,10,20,30,2.5\n"
)
_PLAN = {
    "a": {
        "address": "ab",
        "labels": {"x": 1},
        "cost": dict.fromkeys(
            "parameters non_embedding_parameters steps training_tokens flops_per_step "
            "state_bytes".split(),
            1,
        ),
        "experiment": json.loads(dumps(tiny())),
    }
}
_GPT2 = {
    **{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 9},
    **{"n_positions": 8, "n_embd": 4, "n_layer": 1, "n_head": 2, "activation_function": "gelu_new"},
}
_QUESTION = '{"context": "a b", "choices": ["c", "d"], "answer": 1}\n'
_PO = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\nmsgid "a"\nmsgstr "b"\n'
_CHAT = {"chat_template": "{% for m in messages %}{{ m.role }}{% endfor %}", "bos_token": "<s>"}
_METADATA = "6/default/_METADATA"


_ALL = (
    Target("config", "config.json", text_of(RUN["config.json"]), _config, {}, 8),
    Target("evaluation", "evaluation.json", text_of(RUN["evaluation.json"]), _page, RUN, 12),
    Target("metrics", "metrics.jsonl", text_of(RUN["metrics.jsonl"]), _page, RUN, 12),
    Target("data_facts", "data.json", text_of(RUN["data.json"]), lambda p: read_sizes(p.parent)),
    Target("inspection", "inspection.json", json_of(INSPECTION), _page, RUN, 12),
    Target(
        "branch",
        "branch.json",
        json_of({"run": "x", "step": 3, "rows": 4, "changes": ["a"], "environments": [{}]}),
        lambda path: origin(path.parent),
    ),
    Target(
        "inherited", "inherited.json", json_of({"taken": {"a": [1]}, "new": {}}), _page, RUN, 12
    ),
    Target(
        "by_position",
        "by_position_validation.json",
        json_of(
            dict.fromkeys(("step", "stride", "context_length"), 0)
            | {"nats_by_position": [1.0], "tokens_by_position": [1]}
        ),
        lambda path: read_by_position(path.parent, 0),
    ),
    Target(
        "by_document",
        "by_document_validation.json",
        json_of({"step": 2, "nats": [1.0, 2.0], "characters": [3, 4], "documents": None}),
        lambda path: compare([path.parent]),
        RUN,
    ),
    Target(
        "kept",
        "kept.jsonl",
        text_of("{}\n" + kept_line("a", [[[1.0]] * 7, {}])),
        lambda p: Kept(p, {}),
    ),
    Target("sweep_plan", "sweep.json", json_of(_PLAN), lambda path: read_plan(path.parent), {}, 12),
    Target("sweep_results", "results.csv", text_of(_RESULTS), read_results),
    Target("law", "points.csv", text_of(_CSV), _law),
    Target(
        "task",
        "a.jsonl",
        text_of(_QUESTION * 3),
        lambda path: read_task("a", TaskConfig(str(path))),
    ),
    Target("labelled_text", "a.tsv", text_of("good\ta text\nbad\tanother\n"), _labelled),
    Target("pairs", "a.tsv", text_of("a\tb\nc\td\tdocument\n"), _all_pairs),
    Target("pairs_jsonl", "a.jsonl", text_of('{"source": "a", "target": "b"}\n' * 2), _all_pairs),
    Target("po", "a.po", text_of(_PO), _all_pairs),
    Target("sources", "a.txt", text_of("a\tb\nc\td\n"), read_sources),
    Target("jsonl", "a.jsonl", text_of('{"text": "a\\u00e9", "n": [1]}\n' * 3), _stream),
    Target("csv", "a.csv", text_of('text,n\n"a, b",1\nc,2\n'), _stream),
    Target("parquet", "a.parquet", saved(_parquet), _stream, {}, 12),
    Target("arrow", "a.arrow", _arrow, _stream),
    Target("warc", "a.warc", _warc, _stream),
    Target("gzip", "a.txt.gz", lambda: gzip.compress(b"text " * 20, mtime=0), _stream),
    Target("zstd", "a.txt.zst", _zstd, _stream),
    Target(
        "idx",
        "a",
        lambda: struct.pack(">HBBII", 0, 8, 2, 2, 3) + bytes(6),
        lambda path: _read_idx(path.parent, path.name),
    ),
    Target(
        "npz",
        "a.npz",
        saved(lambda p: np.savez_compressed(p.open("wb"), images=np.zeros((2, 3, 4), np.uint8))),
        _image((3, 4, 1)),
    ),
    Target("picture", "a.png", saved(_picture), _image((3, 4, 1))),
    Target("npy", "a.npy", saved(lambda p: np.save(p.open("wb"), np.arange(6))), _array),
    Target("llm_c", "a.bin", _llm_c, _tokens),
    Target("nanogpt", "a.bin", lambda: np.arange(1, 9, dtype="<u2").tobytes(), _tokens),
    Target(
        "megatron", "a.idx", _megatron, _tokens, {"a.bin": bytes([1, 0, 2, 0, 3, 0, 1, 0, 4, 0])}
    ),
    Target(
        "manifest",
        "digests.json",
        json_of({"algorithm": "xxh3_64", "files": {"a.txt": ["0" * 16]}}),
        lambda path: find_damage(path.parent),
        {"a.txt": "text"},
    ),
    Target(
        "saved_kind", "tokenizer.json", json_of({"kind": "byte", "beginning": 3}), _use_tokenizer
    ),
    Target("words", "words.json", lambda: _trained("word"), _use_tokenizer, _saved_as("word")),
    Target(
        "pieces",
        "sentencepiece.model",
        functools.cache(lambda: _trained("char", vocab_size=300)),
        _use_tokenizer,
        _saved_as("char"),
    ),
    Target(
        "others_pieces",
        "sentencepiece.model",
        functools.cache(lambda: _trained("char", vocab_size=300)),
        _use_tokenizer,
        _saved_as("sentencepiece"),
    ),
    Target(
        "saved_hugging_face",
        "huggingface.json",
        json_of({"tokenizer": json.dumps(_vocabulary()), "end_of_document": 3}),
        _use_tokenizer,
        _saved_as("huggingface"),
    ),
    Target("hugging_face", "tokenizer.json", json_of(_vocabulary()), _hugging_face),
    Target("merges", "tokenizer.json", json_of(_merges()), _hugging_face),
    Target("unigram", "tokenizer.json", json_of(_unigram()), _hugging_face),
    Target("tiktoken", "ranks.tiktoken", _ranks, _use_tokenizer, _saved_as("tiktoken")),
    Target(
        "chat_template",
        "tokenizer_config.json",
        json_of(_CHAT),
        lambda path: chat_template_of(path.parent).fill([{"role": "user", "content": "a"}]),
    ),
    Target(
        "template",
        "a.jinja",
        text_of(
            "{% set ns = namespace(x=' ') %}{% for x in names %}{% set ns.x = ns.x ~ x * 2 %}"
            "{{ '%9s' | format(x) | center(90) }}{% endfor %}{{ [ns.x, range(9)] | join('\n') }}"
        ),
        lambda path: UserTemplate(path.read_text("utf-8", "replace"), "it").fill({"names": "ab"}),
    ),
    Target("their_config", "config.json", json_of(_GPT2), _their_config),
    Target("gguf", "a.gguf", saved(_gguf), _read_gguf, {}, 8),
    Target("safetensors", "model.safetensors", saved(_safetensors), _read_safetensors),
    Target(
        "checkpoint",
        f"checkpoints/{_METADATA}",
        (CHECKPOINTS / _METADATA).read_bytes,
        _checkpoint,
        {
            f"checkpoints/{path.relative_to(CHECKPOINTS)}": path.read_bytes()
            for path in CHECKPOINTS.rglob("*")
            if path.is_file()
        },
        1,
    ),
)
TARGETS: dict[str, Target] = {target.name: target for target in (*_ALL, *OTHERS)}
