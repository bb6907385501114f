"""The findings of `inspection` as HTML: what a report shows of the inside of a model."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lm_jax.reports.attention_section import attention_section
from lm_jax.reports.generation_section import beams_section, next_tokens_section
from lm_jax.reports.svg_charts import scatter_chart, surface_chart

_LARGEST_TABLE = 25  # classes of which every pair is shown


def analysis_sections(findings: Mapping[str, Any]) -> dict[str, str]:
    """The body of each section, by its title; empty where there is nothing to show."""
    return {
        "Confusion": _confusion(findings),
        "Most wrong": _mistakes(findings.get("mistakes", [])),
        "Decision boundary": _boundary(findings.get("boundary")),
        "First filters": _picture(findings.get("filters"), "the kernels of the first convolution"),
        "Feature maps": _picture(findings.get("feature_maps_of"), "an image")
        + _picture(findings.get("feature_maps"), "what the first convolution makes of it"),
        "What comes next": next_tokens_section(findings.get("next_tokens")),
        "Beams": beams_section(findings.get("beams")),
        "Attention": attention_section(findings.get("attention")),
        "Embedding map": _map(findings.get("embedding")),
        "Nearest neighbours": _neighbours(findings.get("embedding")),
    }


def _confusion(findings: Mapping[str, Any]) -> str:
    counts, labels = findings.get("confusion"), findings.get("labels")
    if not counts or not labels:
        return ""
    if len(labels) > _LARGEST_TABLE:
        return _most_confused(counts, labels)
    head = "".join(f"<th>{escape(label)}</th>" for label in labels)
    rows = []
    for label, row in zip(labels, counts, strict=True):
        total = sum(row) or 1
        cells = "".join(
            f'<td style="background: color-mix(in srgb, var(--a) {70 * count / total:.0f}%, '
            f'transparent)">{count or ""}</td>'
            for count in row
        )
        recall = row[labels.index(label)] / total
        rows.append(f"<tr><th>{escape(label)}</th>{cells}<td>{recall:.1%}</td></tr>")
    return (
        "<p>Rows: the label. Columns: the prediction. Last: the share predicted right.</p><div "
        f'class="wide"><table class="confusion"><tr><th></th>{head}<th></th></tr>'
        f"{''.join(rows)}</table></div>"
    )


def _most_confused(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    pairs = [
        (count, labels[i], labels[j])
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if i != j and count
    ]
    rows = "".join(
        f"<tr><th>{escape(label)} taken for {escape(predicted)}</th><td>{count}</td></tr>"
        for count, label, predicted in sorted(pairs, reverse=True)[:_LARGEST_TABLE]
    )
    return f"<table>{rows}</table>"


def _mistakes(mistakes: Sequence[Mapping[str, Any]]) -> str:
    if not mistakes:
        return ""
    if "image" in mistakes[0]:
        figures = "".join(
            f'<figure><img src="{row["image"]}" alt=""><figcaption>{escape(row["label"])}<br>'
            f"taken for {escape(row['predicted'])} ({row['probability']:.0%})</figcaption></figure>"
            for row in mistakes
        )
        return f'<div class="gallery">{figures}</div>'
    rows = "".join(
        f"<tr><th>{escape(row['label'])}<br>taken for {escape(row['predicted'])} "
        f"({row['probability']:.0%})</th><td>{escape(row['text'])}</td></tr>"
        for row in mistakes
    )
    return f"<table>{rows}</table>"


def _boundary(boundary: Mapping[str, Any] | None) -> str:
    if not boundary:
        return ""
    chart = surface_chart(
        boundary["probabilities"], (-0.5, 1.5), boundary["points"], boundary["labels"]
    )
    return f'<figure class="narrow">{chart}</figure>'


def _picture(address: str | None, caption: str) -> str:
    if not address:
        return ""
    return (
        f'<figure><img class="pixels" src="{address}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _map(embedding: Mapping[str, Any] | None) -> str:
    if not embedding:
        return ""
    chart = scatter_chart(embedding["words"], embedding["points"])
    return (
        "<p>Two principal components of the embeddings of the most frequent tokens.</p>"
        f"<figure>{chart}</figure>"
    )


def _neighbours(embedding: Mapping[str, Any] | None) -> str:
    if not embedding:
        return ""
    rows = "".join(
        f"<tr><th>{escape(word)}</th><td>{escape(', '.join(near))}</td></tr>"
        for word, near in embedding["neighbours"].items()
    )
    return f"<table>{rows}</table>"
