"""Attention maps as HTML: all of them small, and one of them as a table to choose and read."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from lm_jax.reports.png import png

_TOWERS = {
    "encoder": "encoder, to its own text",
    "decoder": "decoder, to its own text",
    "cross": "decoder, to the source",
}


def attention_section(towers: Mapping[str, Any] | None) -> str:
    """A table of weights with its choices, and a picture of each map.

    The page's script fills the table with the map that is chosen; without it, it is the first.
    """
    if not towers:
        return ""
    first = next(iter(towers.values()))
    choices = "".join(
        f"<label>{label} <select>{_options(values)}</select></label>"
        for label, values in (
            ("attention of the", [_TOWERS[name] for name in towers]),
            ("layer", first["layers"]),
            ("head", first["heads"]),
        )
    )
    values = json.dumps(list(towers.values()), separators=(",", ":")).replace("<", "\\u003c")
    return (
        "<p>Each row is a token that reads, a decoder's being the one read last; its weights over "
        "the tokens of the columns sum to 1. Colours go with the square root of a weight, and what "
        'is masked is empty.</p><div class="attention">'
        f'<div class="choices">{choices}<output></output></div>'
        f'<div class="wide"><table>{_table(first)}</table></div>'
        f"{''.join(map(_pictures, towers, towers.values()))}"
        f'<script type="application/json">{values}</script></div><script>{_SCRIPT}</script>'
    )


def _options(names: Sequence[Any]) -> str:
    return "".join(f"<option>{escape(str(name))}</option>" for name in names)


def _table(tower: Mapping[str, Any]) -> str:
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in tower["read"])
    rows = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(map(_cell, line.split()))}</tr>"
        for name, line in zip(tower["readers"], tower["maps"][0][0], strict=True)
    )
    return f"<tr><th></th>{head}</tr>{rows}"


def _cell(thousandths: str) -> str:
    if thousandths == ".":
        return "<td></td>"
    weight = int(thousandths) / 1000
    return f'<td style="--w: {100 * weight**0.5:.0f}%" title="{weight:.3f}"></td>'


def _pictures(name: str, tower: Mapping[str, Any]) -> str:
    """All maps of a tower, a line of heads for each layer."""
    rows = []
    for layer, heads in zip(tower["layers"], tower["maps"], strict=True):
        pictures = "".join(
            f'<button title="layer {layer}, head {head}"><img src="{_picture(lines)}" '
            f'alt="{escape(name)}, layer {layer}, head {head}"></button>'
            for head, lines in zip(tower["heads"], heads, strict=True)
        )
        rows.append(f"<div><span>layer {layer}</span>{pictures}</div>")
    return f"<figure><figcaption>{escape(_TOWERS[name])}</figcaption>{''.join(rows)}</figure>"


def _picture(lines: Sequence[str]) -> str:
    """White where nothing is read, black where all is."""
    thousandths = np.array([line.replace(".", "0").split() for line in lines], np.int64)
    return png(np.round(255 * (1 - np.sqrt(thousandths / 1000))).astype(np.uint8))


STYLE = """
.attention .choices { display: flex; flex-wrap: wrap; gap: 16px; align-items: baseline;
  margin-bottom: 10px; } .attention select { font: inherit; color: var(--ink);
  background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: 2px 6px; }
.attention output { color: var(--soft); font-size: 13px; }
.attention table { width: auto; font: 12px ui-monospace, monospace; }
.attention th, .attention td { width: auto; min-width: 20px; height: 20px; padding: 0;
  border-color: transparent; } .attention th { white-space: nowrap; text-align: right;
  padding-right: 6px; max-width: 110px; overflow: hidden; text-overflow: ellipsis; }
.attention tr:first-child th { vertical-align: bottom; padding: 0 0 4px; text-align: left; }
.attention tr:first-child span { writing-mode: sideways-lr; max-height: 110px; overflow: hidden; }
@supports not (writing-mode: sideways-lr) { .attention tr:first-child span {
  writing-mode: vertical-rl; transform: rotate(180deg); } }
.attention td[style] { background: color-mix(in srgb, var(--a) var(--w), transparent);
  border: 1px solid var(--rule); } .attention td:hover { outline: 2px solid var(--b); }
.attention .on { color: var(--b); font-weight: 700; }
.attention figure { margin-top: 12px; overflow-x: auto; } .attention figure div { display: flex;
  gap: 4px; align-items: center; margin: 4px 0; } .attention figure div span { flex: 0 0 58px;
  color: var(--soft); font-size: 12px; } .attention button { flex: 0 0 auto; padding: 2px;
  background: none; border: 1px solid var(--rule); border-radius: 4px; cursor: pointer; }
.attention button.on { border-color: var(--b); box-shadow: 0 0 0 1px var(--b); }
.attention img { display: block; width: 60px; height: 60px; mix-blend-mode: multiply; }
@media (prefers-color-scheme: dark) { .attention img { filter: invert(1);
  mix-blend-mode: screen; } }
"""

_SCRIPT = """
for (const box of document.querySelectorAll(".attention")) {
  const towers = JSON.parse(box.querySelector("script").textContent);
  const [tower, layer, head] = box.querySelectorAll("select");
  const table = box.querySelector("table"), output = box.querySelector("output");
  const figures = [...box.querySelectorAll("figure")];
  const buttons = figures.map(f => [...f.querySelectorAll("div")].map(
    row => [...row.querySelectorAll("button")]));
  const make = (tag, text) => {
    const made = document.createElement(tag);
    made.textContent = text;
    return made; };
  const number = (select, names) => {
    const kept = Math.min(select.selectedIndex, names.length - 1);
    select.replaceChildren(...names.map(name => new Option(name)));
    select.selectedIndex = Math.max(kept, 0); };
  const draw = () => {
    const shown = towers[tower.selectedIndex];
    number(layer, shown.layers);
    number(head, shown.heads);
    const top = make("tr", "");
    top.append(make("th", ""), ...shown.read.map(name => {
      const th = make("th", "");
      th.append(make("span", name));
      return th; }));
    const lines = shown.maps[layer.selectedIndex][head.selectedIndex];
    table.replaceChildren(top, ...lines.map((line, t) => {
      const row = make("tr", "");
      row.append(make("th", shown.readers[t]), ...line.split(" ").map((value, s) => {
        const td = make("td", "");
        if (value !== ".") {
          td.style.setProperty("--w", `${100 * Math.sqrt(value / 1000)}%`);
          td.title = `${shown.readers[t]} reads ${shown.read[s]}: ${(value / 1000).toFixed(3)}`;
        }
        return td; }));
      return row; }));
    for (const button of box.querySelectorAll("button.on")) button.classList.remove("on");
    buttons[tower.selectedIndex][layer.selectedIndex][head.selectedIndex].classList.add("on");
  };
  for (const select of [tower, layer, head]) select.addEventListener("change", draw);
  buttons.forEach((rows, i) => rows.forEach((row, j) => row.forEach((button, k) =>
    button.addEventListener("click", () => {
      tower.selectedIndex = i;
      draw();
      layer.selectedIndex = j;
      head.selectedIndex = k;
      draw(); }))));
  table.addEventListener("mouseover", event => {
    const td = event.target.closest("td");
    for (const th of table.querySelectorAll("th.on")) th.classList.remove("on");
    output.textContent = td ? td.title : "";
    if (!td) return;
    td.parentNode.firstChild.classList.add("on");
    table.rows[0].cells[td.cellIndex].classList.add("on"); });
  draw();
}
"""
