"""Pictures of a fitted law as SVG and PNG, and one page of them; needs the `plots` extra."""

import base64
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.report import page
from lm_jax.scaling import optimum
from lm_jax.scaling.envelope import EnvelopeFit
from lm_jax.scaling.fitting import Fit, log_loss
from lm_jax.scaling.isoflop import IsoflopFit
from lm_jax.scaling.lines import Line
from lm_jax.scaling.study import Study

_STYLE: Any = {
    "figure.figsize": (6.4, 4.2),
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4de",
    "axes.axisbelow": True,
    "font.size": 10,
    "figure.constrained_layout.h_pad": 0.08,
    "legend.frameon": False,
    "svg.hashsalt": "lm_jax",
}
_BLUE, _RED, _GREY = "#2459a8", "#d1542f", "#667085"
_LABELS = {"n": "parameters N", "d": "tokens D", "c": "training FLOPs C", "s": "steps S"}
_LOSS = "loss"
_TAKEN = 200  # resamples that a band is drawn from


def write_page(study: Study, directory: Path) -> Path:
    """The path of scaling_law.html; each of its pictures stands beside it as SVG and PNG.

    Raises:
      ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ValueError("pictures need matplotlib; pip install -e '.[plots]'") from None

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figures = []
    with matplotlib.rc_context(_STYLE):
        for name, (caption, draw) in _pictures(study).items():
            figure, axes = pyplot.subplots()
            draw(axes)
            for kind in ("svg", "png"):
                metadata = {"Date": None} if kind == "svg" else None
                figure.savefig(directory / f"{name}.{kind}", metadata=metadata)
            pyplot.close(figure)
            picture = base64.b64encode((directory / f"{name}.svg").read_bytes()).decode()
            figures.append(
                f'<figure><img style="width:100%;image-rendering:auto;background:white" '
                f'src="data:image/svg+xml;base64,{picture}" alt="{escape(caption)}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
    body = _tables(study.results) + f'<div class="gallery" style="{_GRID}">{"".join(figures)}</div>'
    path = directory / "scaling_law.html"
    path.write_text(page(f"Scaling law: {study.results['law']}", body), encoding="utf-8")
    return path


_GRID = "grid-template-columns: repeat(auto-fill, minmax(440px, 1fr)); margin-top: 24px"
_Pictures = dict[str, tuple[str, Callable[[Any], None]]]


def _pictures(study: Study) -> _Pictures:
    if isinstance(study.fit, IsoflopFit):
        caption = "Loss by size at each budget; the curve, and its minimum (hollow: at the edge)"
        return {"isoflop": (caption, lambda axes: _isoflop(axes, study.fit))} | _optima(study)
    if isinstance(study.fit, EnvelopeFit):
        caption = "Training curves, smoothed, and where one size overtakes the next"
        return {"envelope": (caption, lambda axes: _envelope(axes, study.fit))} | _optima(study)
    found: _Pictures = {}
    if study.results["law"] in ("parametric", "kaplan"):
        found["frontier"] = ("Loss by compute, and the frontier", lambda a: _frontier(a, study))
        found["contours"] = ("Contours of the law's loss", lambda a: _contours(a, study))
    else:
        found["law"] = ("The points and the law", lambda axes: _curve(axes, study))
    found["residuals"] = ("Residuals by what the law predicts", lambda a: _residuals(a, study.fit))
    found["profiles"] = (
        "Profiles: 95% bounds where a curve crosses the dotted line",
        lambda a: _profiles(a, study),
    )
    return found


def _optima(study: Study) -> _Pictures:
    fitted = study.fit
    assert isinstance(fitted, IsoflopFit | EnvelopeFit)
    if isinstance(fitted, IsoflopFit):
        inside = [p for p in fitted.profiles if not p.at_edge]
        c, n = np.array([p.budget for p in inside]), np.array([p.size for p in inside])
    else:
        c, n = fitted.budgets, fitted.sizes
    asked = [row["budget"] for row in study.results.get("predictions", [])]
    return {
        "optimal_size": (
            "The optimal size by budget, and 95% bounds of the line",
            lambda axes: _line(axes, fitted.size, c, n, asked),
        )
    }


def _isoflop(axes: Any, fitted: IsoflopFit) -> None:
    colours = _colours(len(fitted.profiles))
    for profile, colour in zip(fitted.profiles, colours, strict=True):
        axes.plot(*profile.curve, color=colour, linewidth=1.2, label=f"{profile.budget:.3g}")
        axes.plot(profile.sizes, profile.losses, ".", color=colour, markersize=5)
        face = "white" if profile.at_edge else _RED
        axes.plot(profile.size, profile.loss, "o", color=_RED, markerfacecolor=face, zorder=5)
    losses = np.concatenate([profile.losses for profile in fitted.profiles])
    best = np.array([profile.loss for profile in fitted.profiles])
    axes.set(xscale="log", xlabel=_LABELS["n"], ylabel=_LOSS)
    # Sizes far from any optimum would press the minima together.
    axes.set_ylim(best.min() * 0.98, min(losses.max() * 1.02, best.max() * 1.25))
    axes.legend(title="FLOPs", fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _envelope(axes: Any, fitted: EnvelopeFit) -> None:
    for curve, colour in zip(fitted.curves, _colours(len(fitted.curves)), strict=True):
        axes.plot(curve.budgets, curve.losses, ".", color=colour, markersize=2, alpha=0.4)
        axes.plot(curve.budgets, curve.smoothed, color=colour, label=f"{curve.size:.3g}")
    axes.plot(fitted.budgets, fitted.losses, "o", color=_RED, zorder=5)
    axes.set(xscale="log", yscale="log", xlabel=_LABELS["c"], ylabel=_LOSS)
    _plain_ticks(axes.yaxis)
    axes.legend(title="N", fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _line(axes: Any, line: Line, c: np.ndarray, n: np.ndarray, asked: list[float]) -> None:
    grid = np.geomspace(c.min(), max([c.max(), *asked]), 100)
    found = [line.predict(x) for x in grid]
    axes.plot(grid, [y for y, _ in found], color=_BLUE, label=f"N* ~ C^{line.exponent:.3f}")
    bounds = np.array([b for _, b in found])
    if np.isfinite(bounds).all():
        axes.fill_between(grid, *bounds.T, color=_BLUE, alpha=0.15, linewidth=0)
    axes.plot(c, n, "o", color=_RED, label="optima")
    for budget in asked:
        axes.plot(budget, line.predict(budget)[0], "*", color=_BLUE, markersize=12)
    axes.set(xscale="log", yscale="log", xlabel=_LABELS["c"], ylabel="optimal " + _LABELS["n"])
    axes.legend()


def _frontier(axes: Any, study: Study) -> None:
    refits, points, law = study.resamples, study.points, study.results["law"]
    assert refits is not None
    asked = [row["budget"] for row in study.results.get("predictions", [])]
    c = points["c"]
    grid = np.geomspace(c.min(), max([c.max(), *asked]), 60)
    several = {name: values[:_TAKEN] for name, values in refits.parameters.items()}
    middle = [optimum.optimum(law, refits.fit.parameters, x).loss for x in grid]
    bounds = [refits.interval(optimum.optimum(law, several, x).loss) for x in grid]
    dots = _scatter(axes, c, points["loss"], points["n"])
    axes.plot(grid, middle, color=_RED, label="frontier of the law, 95%")
    axes.fill_between(grid, *np.array(bounds).T, color=_RED, alpha=0.2, linewidth=0)
    for row in study.results.get("predictions", []):
        axes.plot(row["budget"], row["loss"], "*", color=_RED, markersize=12)
    axes.set(xscale="log", yscale="log", xlabel=_LABELS["c"], ylabel=_LOSS)
    _plain_ticks(axes.yaxis)
    axes.legend()
    axes.figure.colorbar(dots, ax=axes, label=_LABELS["n"])


def _contours(axes: Any, study: Study) -> None:
    fitted, points = study.fit, study.points
    assert isinstance(fitted, Fit)
    n, d = (np.geomspace(points[v].min() / 1.5, points[v].max() * 1.5, 120) for v in ("n", "d"))
    x = np.stack([np.log(v).ravel() for v in np.meshgrid(n, d)]) - fitted.centre[:, None]
    losses = np.exp(log_loss(fitted.law, fitted.theta, x)).reshape(len(d), len(n))
    levels = np.geomspace(losses.min() * 1.01, losses.max() * 0.99, 14)
    lines = axes.contour(n, d, losses, levels=levels, colors=_GREY, linewidths=0.8)
    axes.clabel(lines, fmt="%.3g", fontsize=8)
    dots = _scatter(axes, points["n"], points["d"], points["loss"])
    budgets = np.geomspace(points["c"].min(), points["c"].max(), 50)
    best = [optimum.optimum(study.results["law"], fitted.parameters, x) for x in budgets]
    axes.plot([b.parameters for b in best], [b.tokens for b in best], color=_RED, label="optimum")
    axes.set(xscale="log", yscale="log", xlabel=_LABELS["n"], ylabel=_LABELS["d"])
    axes.set(xlim=(n[0], n[-1]), ylim=(d[0], d[-1]))
    axes.legend(loc="lower left", frameon=True)
    bar = axes.figure.colorbar(dots, ax=axes, label=_LOSS)
    _plain_ticks(bar.ax.yaxis)


def _curve(axes: Any, study: Study) -> None:
    """The law along its first variable, at the middle of the second."""
    fitted, refits = study.fit, study.resamples
    assert isinstance(fitted, Fit) and refits is not None
    values = np.exp(fitted.x + fitted.centre[:, None])
    grid = np.geomspace(values[0].min(), values[0].max(), 80)
    x = np.stack([np.log(grid) - fitted.centre[0], *np.zeros((len(values) - 1, len(grid)))])
    losses = np.exp(log_loss(fitted.law, refits.thetas[:_TAKEN], x))
    bounds = np.array([refits.interval(column) for column in losses.T])
    axes.plot(values[0], np.exp(fitted.log_losses), ".", color=_BLUE, markersize=5, label="points")
    axes.plot(grid, np.exp(log_loss(fitted.law, fitted.theta, x)), color=_RED, label="law, 95%")
    axes.fill_between(grid, *bounds.T, color=_RED, alpha=0.2, linewidth=0)
    label = _LABELS[fitted.law.variables[0]]
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel=_LOSS)
    _plain_ticks(axes.yaxis)
    axes.legend()


def _residuals(axes: Any, fitted: Any) -> None:
    predicted = np.exp(fitted.log_losses - fitted.residuals)
    axes.axhline(0, color=_GREY, linewidth=1)
    axes.plot(predicted, 100 * fitted.residuals, ".", color=_BLUE, markersize=6)
    axes.set(xlabel="predicted loss", ylabel="residual of log L, %")


def _profiles(axes: Any, study: Study) -> None:
    assert study.profiles is not None
    names = list(study.profiles)
    for (name, found), colour in zip(study.profiles.items(), _colours(len(names)), strict=True):
        offsets = np.linspace(-1, 1, len(found.values))
        axes.plot(offsets, np.sqrt(np.maximum(found.deviances, 0)), color=colour, label=name)
    axes.axhline(1.96, color=_GREY, linestyle=":")
    axes.set(xlabel="parameter, from 4 standard errors below to 4 above", ylabel="root of deviance")
    axes.set(xticks=[-1, -0.5, 0, 0.5, 1], xticklabels=["-4", "-2", "0", "2", "4"], ylim=(0, 5))
    axes.legend()


def _scatter(axes: Any, x: np.ndarray, y: np.ndarray, colour: np.ndarray) -> Any:
    from matplotlib.colors import LogNorm

    return axes.scatter(x, y, c=colour, s=14, cmap="viridis", norm=LogNorm())


def _plain_ticks(axis: Any) -> None:
    """Numbers as 2.5 and not as powers of ten: losses span less than a decade."""
    from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

    axis.set_major_locator(MaxNLocator(6))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


def _colours(count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, 0.9, count))


def _tables(results: dict[str, Any]) -> str:
    rows = [
        (name, f"{results[name]:.5g}", f"{low:.5g} to {high:.5g}")
        for name, (low, high) in results["intervals"].items()
    ]
    tables = [_table(("parameter", "value", "95%"), rows)]
    predictions = [
        (
            f"{row['budget']:.4g}",
            name,
            f"{row[name]:.5g}",
            "{:.5g} to {:.5g}".format(*row[f"{name}_interval"]),
        )
        for row in results.get("predictions", [])
        for name in ("n", "d", "loss")
        if name in row
    ]
    if predictions:
        tables.append(_table(("FLOPs", "optimal", "value", "95%"), predictions))
    quality = [(n.replace("_", " "), _short(v)) for n, v in results["quality"].items()]
    tables.append(_table(("quality", ""), quality))
    edges = ", ".join(f"{budget:.4g}" for budget in results.get("edges", []))
    note = f"<p>Left out, the minimum is at an edge: {edges}.</p>" if edges else ""
    head = f"<p>{escape(results['formula'])}; {results['num_points']} points</p>"
    return head + "<br>".join(tables) + note


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{cells}</tr>{lines}</table>"
