"""Formats the results of a suite as lines of text."""

from collections.abc import Mapping
from typing import Any

from lm_jax.reports.numbers import timing
from lm_jax.reports.text_table import text_table


def table_of(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns a line per experiment and program: rate, milliseconds per step, MFU, ratio."""
    if not any("programs" in result for result in results.values()):
        return _startup(results)
    rows = [["experiment", "", "per second", "ms per step", "quartiles", "MFU", "ratio", "range"]]
    for title, result in results.items():
        for name, rate in result["programs"].items():
            seconds = rate["seconds"]
            lower, median, upper = (
                timing(1e3 * seconds[key]) for key in ("lower_quartile", "median", "upper_quartile")
            )
            row = [title, name, f"{timing(rate['per_second'])} {result['unit']}", median]
            row += [f"{lower} to {upper}", f"{rate['mfu']:.1%}" if "mfu" in rate else ""]
            ours = name == "lm_jax" and "ratio" in result
            low, high = result.get("ratio_range", (0, 0))
            row += [f"{result['ratio']:.2f}", f"{low:.2f} to {high:.2f}"] if ours else ["", ""]
            rows.append(row)
    notes = [line for item in results.items() for line in _notes(*item)]
    return text_table(rows, "<<>>>>>>") + notes


def _startup(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [["seconds to the first step", "", "without a cache", "from a cache"]]
    for title, result in results.items():
        rows.append([title, "", *(timing(result[kind]["median"]) for kind in ("cold", "warm"))])
    return text_table(rows, "<<>>")


def _notes(title: str, result: Mapping[str, Any]) -> list[str]:
    parts = []
    if result.get("compile_seconds"):
        parts.append(f"compiled in {timing(result['compile_seconds'])} s")
    memory = result.get("memory", {})
    parts += [f"memory {kind} {size / 1e6:,.0f} MB" for kind, size in memory.items() if size]
    if "flops" in result:
        parts.append(f"{result['flops']['per_step'] / 1e9:,.4g} GFLOP per step")
        parts.append(f"products at {result['peak_flops']['measured'] / 1e9:,.4g} GFLOP/s")
    if result.get("peak_flops", {}).get("published"):
        share = result["programs"]["lm_jax"]["mfu_published"]
        parts.append(f"{share:.1%} of the peak of {result['peak_flops']['accelerator']}")
    if "bytes_per_step" in result:
        rate = result["programs"]["lm_jax"]["bytes_per_second"]
        parts.append(f"lm_jax reads {timing(rate / 1e9)} GB/s")
    if "wait_seconds" in result:
        wait, share = result["wait_seconds"]["percentile_99"], result["wait_share"]
        parts.append(
            f"batches are made {result['made_over_consumed']:.1f} times as fast as consumed"
        )
        parts.append(f"wait of a dispatch for input: 99th percentile {1e3 * wait:.2g} ms ")
        parts[-1] += f"({share:.2%} of a dispatch)"
    if "baseline" in result:
        parts.append(result["baseline"])
    return [f"{title}: {', '.join(parts)}"] if parts else []
