"""`report.html`: one self-contained page of all that a work directory knows about its run."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lm_jax.errors import UserError
from lm_jax.reports import attention_section as attention_section
from lm_jax.reports import generation_section as generation_section
from lm_jax.reports.sections import analysis_sections
from lm_jax.reports.svg_charts import Series, bar_chart, line_chart
from lm_jax.telemetry.goodput import bars as goodput_bars
from lm_jax.telemetry.json_files import read_metrics

_FIGURES = {
    "bits_per_character": "bits per character",
    "cross_entropy": "cross-entropy, nats",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
    "bits_per_word": "bits per word",
    "word_perplexity": "perplexity, a word",
    "accuracy": "accuracy",
    "tokens": "tokens predicted",
    "pairs": "pairs predicted",
    "examples": "examples classified",
    "characters": "characters",
    "bytes": "bytes",
    "words": "words",
    "documents": "documents",
}

_OPERATIONS = 10  # the kinds of XLA's operations that are shown of a profile


def write_report(workdir: Path) -> Path:
    """The path of the page, written from the files of the work directory.

    Whatever is missing is left out. Raises UserError if the run has no metrics yet.
    """
    rows = read_metrics(workdir)
    if not rows:
        raise UserError(f"{workdir} has no metrics.jsonl to report on; train the model first")
    results, config = _json(workdir / "evaluation.json"), _json(workdir / "config.json")
    validation, baselines = results.get("validation", {}), results.get("baselines", {})
    sections = [
        _headline(results),
        _section("Training", _curves(rows, config.get("objective", ""))),
        _section("What the text costs", _comparison(validation, baselines)),
        _section("Validation", _measures(validation)),
        *(
            _section(*exhibit)
            for exhibit in analysis_sections(_json(workdir / "inspection.json")).items()
        ),
        _section("Samples", _samples(workdir / "samples.txt")),
        _section("Data", _table(_flat(_json(workdir / "data.json")))),
        _section("Configuration", _table(_flat(config))),
        _section("Timings", _table(_flat(results.get("timings", {})))),
        _section("Where the time went", _time(results)),
        _section("Environment", _table(_flat(_json(workdir / "environment.json")))),
    ]
    path = workdir / "report.html"
    path.write_text(page(workdir.resolve().name, "".join(sections)), encoding="utf-8")
    return path


def page(title: str, body: str) -> str:
    """A whole page, self-contained, around its sections."""
    style = _STYLE + attention_section.STYLE + generation_section.STYLE
    return _PAGE.format(title=escape(title), style=style, body=body, script=_SCRIPT)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _headline(results: Mapping[str, Any]) -> str:
    validation = results.get("validation", {})
    facts = [
        ("bits per character", validation.get("bits_per_character"), "{:.3f}"),
        ("accuracy", validation.get("accuracy"), "{:.2%}"),
        ("validation cross-entropy", validation.get("cross_entropy"), "{:.4f}"),
        ("parameters", results.get("parameters"), "{:,}"),
        ("steps", results.get("step"), "{:,}"),
    ]
    for name, value in results.get("timings", {}).items():
        if name.endswith("_per_second"):
            facts.append((f"{name.removesuffix('_per_second')}/s", value, "{:,.0f}"))
    cards = "".join(
        f"<div><strong>{form.format(value)}</strong><span>{escape(name)}</span></div>"
        for name, value, form in facts
        if value is not None
    )
    return f'<div class="cards">{cards}</div>' if cards else ""


def _curves(rows: Sequence[Mapping[str, Any]], objective: str) -> str:
    train = [row for row in rows if row["kind"] == "train"]
    measured = [row for row in rows if row["kind"] == "evaluation"]
    if not train:  # a model that counts has no curves
        return ""
    steps = [row["step"] for row in train]

    def column(name: str) -> Series:
        kept = [row for row in train if row.get(name) is not None]
        return Series(name, [row["step"] for row in kept], [row[name] for row in kept])

    losses = [row.get("loss") or float("nan") for row in train]
    how = " (negative sampling)" if objective == "skip_gram" else ""  # not the same loss
    loss = [
        Series("training", steps, losses, "faint"),
        Series(f"training{how}, smoothed", steps, _smooth(losses)),
        Series(
            "validation",
            [row["step"] for row in measured],
            [row["cross_entropy"] for row in measured],
            "dots",
        ),
    ]
    charts = [line_chart(loss, "step", "cross-entropy, nats", width=960, height=360)]
    small = {
        "learning_rate": "learning rate",
        "gradient_norm": "gradient norm before clipping",
    } | {name: name.replace("_", " ") for name in train[-1] if name.endswith("_per_second")}
    charts += [line_chart([column(name)], "step", label) for name, label in small.items()]
    return f'<div class="charts">{"".join(f"<figure>{c}</figure>" for c in charts if c)}</div>'


def _smooth(values: Sequence[float]) -> list[float]:
    """An exponential mean over about a fiftieth of the run."""
    weight, smoothed, mean = min(1.0, 50 / max(len(values), 1)), [], values[0] if values else 0.0
    for value in values:
        mean += weight * (value - mean)
        smoothed.append(mean)
    return smoothed


def _comparison(validation: Mapping[str, Any], baselines: Mapping[str, float]) -> str:
    if validation.get("bits_per_character") is None:
        return ""
    bars = [(name, value, False) for name, value in baselines.items()]
    bars.append(("this model", validation["bits_per_character"], True))
    bars.sort(key=lambda bar: bar[1])
    return f"<figure>{bar_chart(bars, 'bits per character, less is better')}</figure>"


def _measures(validation: Mapping[str, Any]) -> str:
    values = {}
    for name, label in _FIGURES.items():
        if validation.get(name) is not None:
            error = validation.get(f"{name}_standard_error")
            values[label] = _show(validation[name]) + (f" ± {_show(error)}" if error else "")
    return _table(values)


def _time(results: Mapping[str, Any]) -> str:
    """The shares of a training's wall time, and of its traced steps by kind of operation."""
    goodput, profile = results.get("goodput", {}), results.get("profile", {})
    charts = []
    if goodput:
        total = sum(goodput.values()) - goodput["share"]
        unit = f"% of {total:,.0f} seconds, from the start of this process to the last checkpoint"
        charts.append(bar_chart(goodput_bars(goodput), unit))
    if seconds := profile.get("seconds", {}):
        total, (first, last) = sum(seconds.values()), profile["steps"]
        unit = f"% of {total:.3g} seconds of XLA's operations in steps {first:,} to {last:,}"
        largest = list(seconds.items())[:_OPERATIONS]
        charts.append(bar_chart([(name, 100 * s / total, False) for name, s in largest], unit))
    return "".join(f"<figure>{chart}</figure>" for chart in charts)


def _samples(path: Path) -> str:
    return f"<pre>{escape(path.read_text(encoding='utf-8'))}</pre>" if path.exists() else ""


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in tree.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else None
        flat |= inner if inner is not None else {prefix + name: _show(value)}
    return flat


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}" if abs(value) < 1e5 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(values: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in values.items()
    )
    return f"<table>{rows}</table>" if rows else ""


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body><main><h1>{title}</h1>{body}</main><div id="tip"></div><script>{script}</script></body></html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #667085; --paper: #fbfbf9;
  --card: #ffffff; --rule: #e4e4de; --a: #2459a8; --b: #d1542f; --c: #2c8a57; --faint: #b8cbe8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --soft: #98a2b3; --paper: #14171c;
  --card: #1b1f26; --rule: #2c323b; --a: #7fb0ff; --b: #ff9270; --c: #6fd39b; --faint: #37496a; } }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 32px 20px 80px; }
h1 { font-size: 28px; margin: 0 0 16px; } h2 { font-size: 18px; margin: 40px 0 12px; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; }
.cards div { flex: 1 1 140px; background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; padding: 12px 16px; }
.cards strong { display: block; font-size: 24px; font-variant-numeric: tabular-nums; }
.cards span { color: var(--soft); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 14px; }
.charts figure:first-child { grid-column: 1 / -1; }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 14px 12px 8px; }
svg.chart { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 12px; } svg text.strong { fill: var(--ink);
  font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 3px; }
.grid { stroke: var(--rule); } polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
polyline.s0 { stroke: var(--a); } polyline.faint { stroke: var(--faint); stroke-width: 1.2; }
polyline.s1 { stroke: var(--a); } circle.s0 { fill: var(--faint); } circle.s1 { fill: var(--a); }
circle.s2 { fill: var(--b); } .bar { fill: var(--faint); } .bar.strong { fill: var(--b); }
table { border-collapse: collapse; width: 100%; background: var(--card); font-size: 14px; }
th, td { text-align: left; padding: 5px 12px; border: 1px solid var(--rule);
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
th { font-weight: 500; color: var(--soft); width: 38%; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 16px;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
.wide { overflow-x: auto; } .confusion th, .confusion td { width: auto; text-align: right;
  padding: 4px 7px; font-size: 13px; } .narrow { max-width: 460px; } .share { fill: var(--a); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)); gap: 10px; }
.gallery img { width: 84px; } img { image-rendering: pixelated; max-width: 100%; }
.runs th, .runs td { width: auto; padding: 4px 7px; font-size: 13px; overflow-wrap: normal; }
figcaption { color: var(--soft); font-size: 12px; }
#tip { position: fixed; display: none; pointer-events: none; background: var(--ink);
  color: var(--paper); font-size: 12px; padding: 4px 8px; border-radius: 6px; white-space: pre; }
"""

_SCRIPT = """
const tip = document.getElementById("tip");
for (const svg of document.querySelectorAll("svg.chart")) {
  const curves = [...svg.querySelectorAll("g.curve")].map(g => ({
    name: g.dataset.name, values: g.dataset.values.split(" "),
    points: [...g.querySelectorAll("circle")].map(c => [+c.getAttribute("cx")]).concat(
      ...[...g.querySelectorAll("polyline")].map(
        p => p.getAttribute("points").split(" ").map(q => [parseFloat(q)])))}));
  if (!curves.length) continue;
  svg.addEventListener("mousemove", event => {
    const x = new DOMPoint(event.clientX, event.clientY)
      .matrixTransform(svg.getScreenCTM().inverse()).x;
    tip.textContent = curves.map(curve => {
      let best = 0;
      curve.points.forEach((p, i) => {
        if (Math.abs(p[0] - x) < Math.abs(curve.points[best][0] - x)) best = i; });
      const [step, value] = curve.values[best].split(":");
      return `${curve.name} at ${step}: ${value}`; }).join("\\n");
    tip.style.display = "block";
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = event.clientY + 14 + "px"; });
  svg.addEventListener("mouseleave", () => { tip.style.display = "none"; });
}
"""
