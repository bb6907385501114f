"""Plots of a fitted law, and the page that shows them; needs the `plots` extra."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.reports.html import render
from lm_jax.reports.matplotlib_figures import (
    BLUE,
    GREY,
    LABELS,
    LONGEST_NAME,
    LOSS,
    RED,
    Plot,
    clear_places,
    colours,
    label_ends,
    plain,
    plain_ticks,
    require_matplotlib,
    scatter,
    write_figures,
)
from lm_jax.reports.numbers import bounded, four_digits
from lm_jax.scaling_laws import compute_optimal
from lm_jax.scaling_laws.envelope import EnvelopeFit
from lm_jax.scaling_laws.huber_fit import Fit, log_loss
from lm_jax.scaling_laws.isoflop import IsoflopFit, IsoflopProfile
from lm_jax.scaling_laws.log_log_regression import Line
from lm_jax.scaling_laws.study import Study
from lm_jax.scaling_laws.uncertainty import Resamples
from lm_jax.telemetry.json_files import write_text

_TAKEN = 200  # resamples that a band is drawn from
_QUALITY = {
    "r_squared": "R squared of log L",
    "rms_residual": "residual of log L, root mean square",
    "largest_residual": "largest residual of log L",
    "largest_residual_line": "line of the file with the largest residual",
    "left_out_points": "points of the largest budgets, left out of a fit to test it",
    "left_out_error": "error of log L at these points, root mean square",
    "left_out_bias": "mean error of log L at these points",
    "rms_residual_n": "residual of the log of optimal N, root mean square",
}
_MARKERS = "o^sDvP"  # one a group


def write_page(study: Study, directory: str | Path, provenance: str = "") -> Path:
    """Writes scaling_law.html, and each plot beside it as SVG and PNG; returns the page's path.

    Args:
      study: the study.
      directory: where the files go.
      provenance: where the points come from; the page and the metadata of the plots repeat it.

    Raises:
      UserError: matplotlib is not installed.
    """
    require_matplotlib()
    directory = Path(directory)
    page = render(
        "scaling_law.html",
        title=f"Scaling law: {study.results['law']}",
        figures=write_figures(_plots(study), directory, provenance),
        provenance=provenance,
        **_page_values(study.results),
    )
    path = directory / "scaling_law.html"
    write_text(path, page)
    return path


def _plots(study: Study) -> dict[str, Plot]:
    fitted = study.fit
    if isinstance(fitted, IsoflopFit):
        caption = "Loss by size at each budget; a curve through the points, and its interpolated"
        caption += " minimum (hollow: at the edge); triangles: losses above the axis"
        isoflop = Plot(caption, lambda axes: profiles(axes, fitted.profiles))
        return {"isoflop": isoflop} | _optima(study)
    if isinstance(fitted, EnvelopeFit):
        caption = "Smoothed training curves, and the crossovers between sizes"
        envelope = Plot(caption, lambda axes: _envelope(axes, fitted))
        return {"envelope": envelope} | _optima(study)
    asked = study.results.get("predictions")
    found: dict[str, Plot] = {}
    if study.results["law"] in ("parametric", "kaplan"):
        caption = "Loss by compute: the points, coloured by size, and the lowest loss that the law"
        caption += " allows, with its 95% band" + (
            "; stars: the budgets asked for" if asked else ""
        )
        found["frontier"] = Plot(caption, lambda axes: _frontier(axes, study))
        found["contours"] = Plot(
            "Contours of the law's loss; the points, coloured by their loss; red: the best split of"
            " compute between parameters and tokens",
            lambda axes: _contours(axes, study),
        )
    elif study.by_group is not None and len(fitted.law.variables) == 1:
        own, caption = study.by_group, "The points, and the law with exponents for each group"
        found["groups"] = Plot(caption, lambda axes: _groups(axes, study))
        caption = "Residuals by predicted loss, with exponents for each group"
        return found | {"residuals": Plot(caption, lambda axes: _residuals(axes, own.fit))}
    else:
        found["law"] = Plot("The points and the law", lambda axes: _curve(axes, study))
    caption = "Residuals by predicted loss"
    found["residuals"] = Plot(caption, lambda axes: _residuals(axes, study.fit))
    caption = "Profiles of the parameters; curves cross the dotted line at their 95% bounds"
    found["profiles"] = Plot(caption, lambda axes: _profiles(axes, study))
    return found


def _optima(study: Study) -> dict[str, Plot]:
    fitted = study.fit
    assert isinstance(fitted, IsoflopFit | EnvelopeFit)
    if isinstance(fitted, IsoflopFit):
        inside = [p for p in fitted.profiles if not p.at_edge]
        c, n = np.array([p.budget for p in inside]), np.array([p.size for p in inside])
    else:
        c, n = fitted.budgets, fitted.sizes
    asked = [row["budget"] for row in study.results.get("predictions", [])]
    caption = "The optimal size by budget, and the 95% bounds of the line"
    drawn = Plot(caption, lambda axes: _line(axes, fitted.size, c, n, asked))
    return {"optimal_size": drawn}


def profiles(axes: Any, fitted: Sequence[IsoflopProfile]) -> None:
    """Draws IsoFLOP profiles: points, curves and minima, hollow where one lies at an edge.

    Losses above the axis are triangles at its top.
    """
    for profile, colour in zip(fitted, colours(len(fitted)), strict=True):
        axes.plot(*profile.curve, color=colour, linewidth=1.2)
        axes.plot(profile.sizes, profile.losses, ".", color=colour, markersize=5)
        face = "white" if profile.at_edge else RED
        axes.plot(profile.size, profile.loss, "o", color=RED, markerfacecolor=face, zorder=5)
    losses = np.concatenate([profile.losses for profile in fitted])
    best = np.array([profile.loss for profile in fitted])
    axes.set(xscale="log", xlabel=LABELS["n"], ylabel=LOSS)
    # Sizes far from any optimum would squeeze the minima together.
    top = min(losses.max() * 1.02, best.max() * 1.25)
    axes.set_ylim(best.min() * 0.98, top)
    for profile, colour in zip(fitted, colours(len(fitted)), strict=True):
        high = profile.sizes[profile.losses > top]
        axes.plot(high, np.full(len(high), top), "^", color=colour, markersize=5, clip_on=False)
    ends = zip(fitted, colours(len(fitted)), strict=True)
    label_ends(axes, [(min(p.losses[-1], top), f"{p.budget:.3g} FLOPs", c) for p, c in ends])


def _envelope(axes: Any, fitted: EnvelopeFit) -> None:
    for curve, colour in zip(fitted.curves, colours(len(fitted.curves)), strict=True):
        axes.plot(curve.budgets, curve.losses, ".", color=colour, markersize=2, alpha=0.4)
        axes.plot(curve.budgets, curve.smoothed, color=colour, label=f"{curve.size:.3g}")
    axes.plot(fitted.budgets, fitted.losses, "o", color=RED, zorder=5)
    axes.set(xscale="log", yscale="log", xlabel=LABELS["c"], ylabel=LOSS)
    plain_ticks(axes.yaxis)
    axes.legend(title="N", fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))


def _line(axes: Any, line: Line, c: np.ndarray, n: np.ndarray, asked: list[float]) -> None:
    grid = np.geomspace(c.min(), max([c.max(), *asked]), 100)
    found = [line.predict(x) for x in grid]
    axes.plot(grid, [y for y, _ in found], color=BLUE, label=f"N* ~ C^{line.exponent:.3f}")
    bounds = np.array([b for _, b in found])
    if np.isfinite(bounds).all():
        axes.fill_between(grid, *bounds.T, color=BLUE, alpha=0.15, linewidth=0)
    axes.plot(c, n, "o", color=RED, label="optima")
    for budget in asked:
        axes.plot(budget, line.predict(budget)[0], "*", color=BLUE, markersize=12)
    axes.set(xscale="log", yscale="log", xlabel=LABELS["c"], ylabel="optimal " + LABELS["n"])
    axes.legend()


def _frontier(axes: Any, study: Study) -> None:
    refits, points, law = study.resamples, study.points, study.results["law"]
    assert refits is not None
    asked = [row["budget"] for row in study.results.get("predictions", [])]
    c = points["c"]
    grid = np.geomspace(c.min(), max([c.max(), *asked]), 60)
    several = {name: values[:_TAKEN] for name, values in refits.parameters.items()}
    middle = [compute_optimal.optimum(law, refits.fit.parameters, x).loss for x in grid]
    bounds = [refits.interval(compute_optimal.optimum(law, several, x).loss) for x in grid]
    dots = scatter(axes, c, points["loss"], points["n"])
    axes.plot(grid, middle, color=RED, label="frontier of the law, 95%")
    axes.fill_between(grid, *np.array(bounds).T, color=RED, alpha=0.2, linewidth=0)
    for row in study.results.get("predictions", []):
        axes.plot(row["budget"], row["loss"], "*", color=RED, markersize=12)
    axes.set(xscale="log", yscale="log", xlabel=LABELS["c"], ylabel=LOSS)
    plain_ticks(axes.yaxis)
    axes.legend()
    axes.figure.colorbar(dots, ax=axes, label=LABELS["n"])


def _contours(axes: Any, study: Study) -> None:
    fitted, points = study.fit, study.points
    assert isinstance(fitted, Fit)
    n, d = (np.geomspace(points[v].min() / 1.5, points[v].max() * 1.5, 120) for v in ("n", "d"))
    x = np.stack([np.log(v).ravel() for v in np.meshgrid(n, d)]) - fitted.centre[:, None]
    losses = np.exp(log_loss(fitted.law, fitted.theta, x)).reshape(len(d), len(n))
    levels = np.geomspace(losses.min() * 1.01, losses.max() * 0.99, 14)
    axes.set(xscale="log", yscale="log", xlabel=LABELS["n"], ylabel=LABELS["d"])
    axes.set(xlim=(n[0], n[-1]), ylim=(d[0], d[-1]))
    lines = axes.contour(n, d, losses, levels=levels, colors=GREY, linewidths=0.8)
    dots = scatter(axes, points["n"], points["d"], points["loss"])
    budgets = np.geomspace(points["c"].min(), points["c"].max(), 50)
    best = [compute_optimal.optimum(study.results["law"], fitted.parameters, x) for x in budgets]
    line = np.array([(b.parameters, b.tokens) for b in best])
    axes.plot(*line.T, color=RED)
    bar = axes.figure.colorbar(dots, ax=axes, label=LOSS)
    plain_ticks(bar.ax.yaxis)
    contours = [np.concatenate(parts) for parts in lines.allsegs if parts]
    drawn = np.concatenate([np.stack([points["n"], points["d"]], 1), line])
    places = clear_places(axes, contours, drawn)
    axes.clabel(lines, fmt="%.3g", fontsize=9, manual=places)


def _curve(axes: Any, study: Study) -> None:
    """Draws the law along its first variable, at the mean log of the second."""
    fitted, refits = study.fit, study.resamples
    assert isinstance(fitted, Fit) and refits is not None
    values = np.exp(fitted.x + fitted.centre[:, None])
    axes.plot(values[0], np.exp(fitted.log_losses), ".", color=BLUE, markersize=5, label="points")
    _along_first(axes, refits, values[0], np.zeros(len(values) - 1), "law, 95%", RED)
    _loss_axes(axes, fitted)
    axes.legend()


def _groups(axes: Any, study: Study) -> None:
    """Draws the points of each group, and the law with its own exponent."""
    refits, names = study.by_group, np.unique(np.asarray(study.points.groups, str))
    assert refits is not None
    fitted = refits.fit
    values = np.exp(fitted.x[0] + fitted.centre[0])
    for number, (name, colour) in enumerate(zip(names, colours(len(names)), strict=True)):
        own = fitted.x[-1] == number
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot(values[own], np.exp(fitted.log_losses[own]), marker, color=colour, markersize=5)
        slope = fitted.parameters[f"alpha[{name}]"]
        label = f"{plain(name, LONGEST_NAME)}, exponent {slope:.3f}"
        _along_first(axes, refits, values[own], np.array([number]), label, colour, marker)
    _loss_axes(axes, fitted)
    axes.legend()


def _along_first(
    axes: Any,
    refits: Resamples,
    values: np.ndarray,
    others: np.ndarray,
    label: str,
    colour: Any,
    marker: str = "",
) -> None:
    """Draws a fitted law and its 95% band over the range of its first variable.

    Args:
      axes: where to draw.
      refits: the law with its resamples.
      values: values of the first variable.
      others: centred logs of the other variables, which are constant.
      label: the name in the legend.
      colour: the colour of line and band.
      marker: the marker in the legend.
    """
    fitted = refits.fit
    grid = np.geomspace(values.min(), values.max(), 80)
    rest = np.broadcast_to(others[:, None], (len(others), len(grid)))
    x = np.stack([np.log(grid) - fitted.centre[0], *rest])
    losses = np.exp(log_loss(fitted.law, refits.thetas[:_TAKEN], x))
    bounds = np.array([refits.interval(column) for column in losses.T])
    middle = np.exp(log_loss(fitted.law, fitted.theta, x))
    axes.plot(grid, middle, color=colour, label=label, marker=marker, markevery=[], markersize=5)
    axes.fill_between(grid, *bounds.T, color=colour, alpha=0.2, linewidth=0)


def _loss_axes(axes: Any, fitted: Fit) -> None:
    label = LABELS[fitted.law.variables[0]]
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel=LOSS)
    plain_ticks(axes.yaxis)


def _residuals(axes: Any, fitted: Any) -> None:
    predicted = np.exp(fitted.log_losses - fitted.residuals)
    axes.axhline(0, color=GREY, linewidth=1)
    axes.plot(predicted, 100 * fitted.residuals, ".", color=BLUE, markersize=6)
    axes.set(xlabel="predicted loss", ylabel="residual of log L, %")


def _profiles(axes: Any, study: Study) -> None:
    assert study.profiles is not None
    names = list(study.profiles)
    for (name, found), colour in zip(study.profiles.items(), colours(len(names)), strict=True):
        offsets = np.linspace(-1, 1, len(found.values))
        axes.plot(offsets, np.sqrt(np.maximum(found.deviances, 0)), color=colour, label=name)
    axes.axhline(1.96, color=GREY, linestyle=":")
    axes.set(xlabel="parameter, from 4 standard errors below to 4 above", ylabel="root of deviance")
    axes.set(xticks=[-1, -0.5, 0, 0.5, 1], xticklabels=["-4", "-2", "0", "2", "4"], ylim=(0, 5))
    axes.legend()


def _page_values(results: dict[str, Any]) -> dict[str, Any]:
    """Returns the results of a study as the cells of its page."""
    predictions = [
        (
            f"{row['budget']:.4g}",
            LABELS.get(name, name),
            *bounded(row[name], *row[f"{name}_interval"]),
        )
        for row in results.get("predictions", [])
        for name in ("n", "d", "loss")
        if name in row
    ]
    quality = [
        (_QUALITY[name], four_digits(value))
        for name, value in results["quality"].items()
        if value is not None
    ]
    return {
        "formula": results["formula"],
        "num_points": results["num_points"],
        "fitted": _parameters(results),
        "predictions": predictions,
        "quality": quality,
        "edges": ", ".join(f"{budget:.4g}" for budget in results.get("edges", [])),
        "groups": _group_values(results["groups"]) if "groups" in results else None,
    }


def _group_values(groups: dict[str, Any]) -> dict[str, Any]:
    return {
        "p_value": f"{groups['p_value']:.3g}",
        "fitted": _parameters(groups["own_exponents"]),
        "differences": [
            (name, bounded(0.0, *bounds)[1]) for name, bounds in groups["differences"].items()
        ],
    }


def _parameters(fitted: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Returns the parameters of a fit with their values and intervals."""
    return [(name, *bounded(fitted[name], *bounds)) for name, bounds in fitted["intervals"].items()]
