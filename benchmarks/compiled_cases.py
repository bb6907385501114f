"""The cases of `benchmarks.compiled_steps`, and how they and those of decoding are shown."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

_GPT2 = ["--config.model.attention=auto", "--devices=1", "--accelerator=h100"]
_KEPT = ["--config.model.scan_layers=false", "--config.model.remat=none"]
_LLAMA_1B = [  # TinyLlama's shape (Zhang et al. 2024)
    "--config=configs/published.py:llama2_7b",
    "--config.model.context_length=2048",
    "--config.model.num_layers=22",
    "--config.model.d_model=2048",
    "--config.model.d_ff=5632",
    "--config.model.num_kv_heads=4",
    "--config.evaluation.batch_size=64",
    "--config.model.attention=auto",
    *_KEPT,
]
_LLAMA_7B = [
    "--config=configs/published.py:llama2_7b",
    "--config.evaluation.batch_size=64",
    "--config.model.attention=auto",
    *_KEPT,
]
_LLAMA_7B_TPU = [
    "--config=configs/published.py:llama2_7b",
    "--config.evaluation.batch_size=128",
    "--config.model.attention=auto",
]
_DECODING = "| model, texts | device | weights | GB of them | GB moved | ms | tokens/s |"
CASES: dict[str, list[str]] = {
    "gpt2_small_h100": [
        "--config=configs/published.py:gpt2_small",
        "--config.training.batch_size=16",
        *_GPT2,
    ],
    "gpt2_small_a100": [
        "--config=configs/published.py:gpt2_small",
        "--config.training.batch_size=16",
        "--config.model.attention=auto",
        "--devices=1",
        "--accelerator=a100",
    ],
    "gpt2_medium_h100": [
        "--config=configs/published.py:gpt2_medium",
        "--config.training.batch_size=16",
        *_GPT2,
    ],
    "gpt2_xl_h100": [
        "--config=configs/published.py:gpt2_xl",
        "--config.training.batch_size=8",
        *_KEPT,
        *_GPT2,
    ],
    "gpt2_small_v5e_8": [
        "--config=configs/published.py:gpt2_small",
        "--config.training.batch_size=64",
        "--config.model.attention=auto",
        "--devices=8",
        "--accelerator=v5e",
        "--mesh=data:8",
    ],
    "llama_1b_h100_8": [*_LLAMA_1B, "--devices=8", "--mesh=fsdp:8", "--batch_size=64"],
    "llama_1b_h100_64": [*_LLAMA_1B, "--devices=64", "--mesh=fsdp:64", "--batch_size=512"],
    "llama_7b_h100_8": [*_LLAMA_7B, "--devices=8", "--mesh=fsdp:8", "--batch_size=16"],
    "llama_7b_h100_64": [*_LLAMA_7B, "--devices=64", "--mesh=fsdp:64", "--batch_size=128"],
    "llama_7b_h100_64_tensor": [
        *_LLAMA_7B,
        "--devices=64",
        "--mesh=fsdp:8,tensor:8",
        "--batch_size=128",
    ],
    "llama_7b_v5e_64": [
        *_LLAMA_7B_TPU,
        "--config.model.remat=attention",
        "--devices=64",
        "--accelerator=v5e",
        "--mesh=fsdp:64",
        "--batch_size=128",
    ],
    "llama_7b_v5p_64": [
        *_LLAMA_7B_TPU,
        "--config.model.remat=dots",
        "--devices=64",
        "--accelerator=v5p",
        "--mesh=data:4,fsdp:16",
        "--batch_size=256",
    ],
    "llama_7b_v5p_128": [
        *_LLAMA_7B_TPU,
        "--config.model.remat=dots",
        "--devices=128",
        "--accelerator=v5p",
        "--mesh=data:16,fsdp:8",
        "--batch_size=512",
    ],
}


def check(arguments: list[str]) -> dict[str, Any]:
    """Returns the figures of `launch.compile_check`, run in a process of its own.

    Raises:
      RuntimeError: it failed, with the last line of what it said.
    """
    program = [sys.executable, "-m", "launch.compile_check", *arguments]
    ran = subprocess.run(program, text=True, capture_output=True, check=False)
    if ran.returncode:
        raise RuntimeError(ran.stderr.strip().splitlines()[-1])
    return json.loads(ran.stdout.splitlines()[-1])


def row(case: str, found: Mapping[str, Any]) -> str:
    """Returns a case as a row of the table."""
    step, mesh = found["predicted"], found["mesh"]
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1) or "-"
    shown = [
        case,
        f"{found['devices']} {found['accelerator']}",
        axes,
        found["batch_size"],
        f"{found['memory']['total'] / 1e9:.1f}{'' if found['fits'] else ' (too much)'}",
        f"{1e3 * step['step_seconds']:,.1f}",
        f"{1e3 * step['exposed_seconds']:,.1f}",
        f"{step['tokens_per_second_and_device']:,.0f}",
        f"{step['mfu']:.1%}",
    ]
    return f"| {' | '.join(map(str, shown))} |"


def decoding_table(kept: Mapping[str, Any]) -> list[str]:
    """Returns the lines of a table of all cases of `benchmarks.decoding_bytes`, in their order."""
    lines = [_DECODING, "| --- | --- | --- | --- | --- | --- | --- |"]
    for case, found in kept.items():
        model, batch_size, accelerator, weights = case.split()
        seconds, rate = found["predicted"]["step_seconds"], found["predicted"]["tokens_per_second"]
        read, moved = found["memory"]["parameters"], found["bytes_moved"]
        name = "bfloat16" if weights == "float32" else weights  # as a step reads them
        sizes = f"{read / 1e9:.3f} | {moved / 1e9:.3f} | {1e3 * seconds:.2f} | {rate:,.0f}"
        lines.append(f"| {model}, {batch_size} | {accelerator} | {name} | {sizes} |")
    return lines
