"""Report sections that show the inside of a model, from `inspection.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lm_jax.reports.attention_section import attention_section
from lm_jax.reports.generation_section import beam_search_section, next_tokens_section
from lm_jax.reports.html import render
from lm_jax.reports.svg_charts import both_widths, scatter_chart, surface_chart

EMBEDDINGS = ("Nearest neighbours", "Embedding map")
_LARGEST_TABLE = 25  # classes; of more, only the most frequent confusions are shown


def analysis_sections(analysis: Mapping[str, Any]) -> dict[str, Markup]:
    """Returns the body of each section by its title; empty where there is nothing to show.

    Args:
      analysis: what `lm_jax.analysis.inspect` found, or `read_inspection` returned.
    """
    embedding = analysis.get("embedding")
    pictures = ("filters", "feature_maps_of", "feature_maps")
    filters, image, feature_maps = (analysis.get(name) for name in pictures)
    return {
        "Confusion matrix": _confusion(analysis),
        "Most confident mistakes": _mistakes(analysis.get("mistakes", [])),
        "Decision boundary": _boundary(analysis.get("boundary")),
        "First filters": _pictures([("kernels of the first convolution", filters)]),
        "Feature maps": _pictures(
            [("an image", image), ("its feature maps in the first convolution", feature_maps)]
        ),
        "Expert load": _expert_loads(analysis.get("expert_loads", {})),
        "Next-token predictions": next_tokens_section(analysis.get("next_tokens")),
        "Beam search": beam_search_section(analysis.get("beams")),
        "Attention maps": attention_section(analysis.get("attention")),
        "Embedding map": _embedding_map(embedding),
        "Nearest neighbours": _neighbours(embedding),
    }


def _confusion(analysis: Mapping[str, Any]) -> Markup:
    counts, labels = analysis.get("confusion"), analysis.get("labels")
    if not counts or not labels:
        return Markup()
    if len(labels) > _LARGEST_TABLE:
        return _facts(_most_confused(counts, labels))
    rows = []
    for index, (label, row) in enumerate(zip(labels, counts, strict=True)):
        total = sum(row) or 1
        recall = f"{row[index] / total:.1%}"
        rows.append({"label": label, "counts": row, "total": total, "recall": recall})
    return render("confusion_matrix.html", labels=labels, rows=rows)


def _most_confused(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[tuple[str, int]]:
    pairs = [
        (count, labels[i], labels[j])
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if i != j and count
    ]
    most = sorted(pairs, reverse=True)[:_LARGEST_TABLE]
    return [(f"{label} taken for {predicted}", count) for count, label, predicted in most]


def _mistakes(mistakes: Sequence[Mapping[str, Any]]) -> Markup:
    if not mistakes:
        return Markup()
    has_unknown = any("<unk>" in row.get("text", "") for row in mistakes)
    return render("mistakes.html", mistakes=mistakes, has_unknown=has_unknown)


def _boundary(boundary: Mapping[str, Any] | None) -> Markup:
    if not boundary:
        return Markup()
    chart = surface_chart(
        boundary["probabilities"], (-0.5, 1.5), boundary["points"], boundary["labels"]
    )
    return render("decision_boundary.html", chart=chart)


def _pictures(pictures: Sequence[tuple[str, str | None]]) -> Markup:
    return render("pictures.html", pictures=pictures)


def _expert_loads(loads: Mapping[str, Sequence[Sequence[int]]]) -> Markup:
    """Returns a table of the load of each expert of each layer."""
    if not loads:
        return Markup()
    rows = [
        {
            "label": f"layer {index}" if len(loads) == 1 else f"{stack} layer {index}",
            "shares": [count / (sum(row) or 1) for count in row],
            "largest": f"{max(row) * len(row) / (sum(row) or 1):.2f}",
        }
        for stack, rows_of_stack in loads.items()
        for index, row in enumerate(rows_of_stack, 1)
    ]
    return render("expert_load.html", rows=rows)


def _embedding_map(embedding: Mapping[str, Any] | None) -> Markup:
    if not embedding:
        return Markup()
    unnamed = []

    def draw(width: int) -> Markup:
        chart, count = scatter_chart(embedding["words"], embedding["points"], width)
        unnamed.append(count)
        return chart

    return render("embedding_map.html", chart=both_widths(draw), unnamed=max(unnamed))


def _neighbours(embedding: Mapping[str, Any] | None) -> Markup:
    return render("neighbours.html", rows=embedding["neighbours"]) if embedding else Markup()


def _facts(rows: Sequence[tuple[str, Any]]) -> Markup:
    return render("facts.html", rows=rows)
