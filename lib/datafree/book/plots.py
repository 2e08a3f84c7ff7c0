"""Figures for light and dark pages: transparent, colour-blind palette, always with a text alternative."""

from __future__ import annotations

import base64
import html
import io
import weakref
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from IPython.display import display

from .figures import INK, SVG

PALETTE = sns.color_palette("colorblind")
SOURCES = {"real": PALETTE[7], "BNS": PALETTE[0], "BNS + I": PALETTE[2], "I": PALETTE[1], "G": PALETTE[4]}
"""One colour for each source of images, the same in every chapter."""

METHODS = {"knowledge_within": "#0173b2", "layerwise": "#00785a", "udfc": "#b85c00", "frandi": "#8b4fa6"}
"""One colour for each paper, the same in the whole book; as text each has contrast enough on white."""

MARKERS = {"real": "s", "BNS": "o", "BNS + I": "D", "I": "^", "G": "v"}

matplotlib.use("agg")  # nothing is displayed but what `show` displays: a notebook would repeat figures left open
matplotlib.rcParams.update(
    {
        "figure.figsize": (7.0, 3.2), "figure.dpi": 100, "savefig.bbox": "tight", "svg.fonttype": "none",
        "font.size": 10, "axes.grid": True, "grid.alpha": 0.35, "grid.color": INK, "axes.facecolor": "none",
        "figure.facecolor": "none", "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
        "axes.prop_cycle": matplotlib.cycler(color=PALETTE), "text.color": INK, "axes.labelcolor": INK,
        "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "legend.labelcolor": INK,
    }
)  # fmt: skip


def show(figure: plt.Figure, alt: str) -> None:
    """Display `figure` as one picture with `alt` as its text alternative, then close it; its drawing goes along."""
    for axis in figure.axes:
        if axis in DIRECT:
            _label_curves(axis)
        else:
            _part_names(axis)
    width = round(figure.get_size_inches()[0] * 100)
    picture = base64.b64encode(_saved(figure, "png", facecolor="white")).decode()
    drawing = {} if _has_images(figure) else {SVG: _saved(figure, "svg", transparent=True).decode()}
    plt.close(figure)
    text = html.escape(" ".join(alt.split()), quote=True)
    tag = f'<img src="data:image/png;base64,{picture}" alt="{text}" style="max-width: min(100%, {width}px)">'
    display({"text/html": tag, "text/plain": text} | drawing, raw=True)


DIRECT: weakref.WeakSet = weakref.WeakSet()
"""Axes whose curves bear their names at their ends, in place of a legend."""

DISTANCE = 13
"""Between the names of two curves, in points."""


def _label_curves(axis: plt.Axes) -> None:
    """A piece and the name of each curve behind its last point, moved up or down so that names do not cover each other."""
    if legend := axis.get_legend():
        legend.remove()
    axis.figure.canvas.draw()  # from here on places are final
    curves = [line for line in axis.lines if not line.get_label().startswith("_")]
    heights = [_height_of_end(line) for line in curves]
    point, box = axis.figure.dpi / 72, axis.get_window_extent()
    start, end, name = (1 + k * point / box.width for k in (5, 25, 29))
    for line, height in zip(curves, apart(heights, DISTANCE * point / box.height)):
        axis.add_artist(_piece(line, (start, end), height))
        axis.annotate(line.get_label(), (name, height), xycoords="axes fraction", va="center", fontsize=9)
    axis.figure.tight_layout()


def _part_names(axis: plt.Axes) -> None:
    """Names at points, from the lowest on, moved up where they would cover the name of another."""
    names = [text for text in axis.texts if isinstance(text, plt.Annotation) and text.anncoords == "offset points"]
    if not names:
        return
    axis.figure.canvas.draw()  # from here on places are final
    point, placed = axis.figure.dpi / 72, []
    for text in sorted(names, key=lambda text: text.get_window_extent().y0):
        while covered := [box for box in placed if box.overlaps(text.get_window_extent())]:
            x, y = text.get_position()
            up = max(box.y1 for box in covered) - text.get_window_extent().y0
            text.set_position((x, y + up / point + 0.5))
        placed.append(text.get_window_extent())


def _piece(line: plt.Line2D, ends: tuple[float, float], height: float) -> plt.Line2D:
    """A short piece of a curve, or one of its marks where it has no line, beside its axes."""
    where = ends if line.get_linestyle() not in ("None", "") else (sum(ends) / 2,)
    copied = {
        name: getattr(line, f"get_{name}")() for name in ("color", "linestyle", "linewidth", "marker", "markersize")
    }
    return plt.Line2D(
        where, [height] * len(where), **copied, transform=line.axes.transAxes, clip_on=False, label="_piece"
    )


def _height_of_end(line: plt.Line2D) -> float:
    """Where a curve ends, as a share of the axes' height."""
    y = np.asarray(line.get_ydata(), dtype=float)
    y = y[np.isfinite(y)]
    if len(y) == 0:
        return 0.0
    _, pixel = line.axes.transData.transform((1, y[-1]))
    return float(np.clip(line.axes.transAxes.inverted().transform((0, pixel))[1], 0, 1))


def apart(heights: Sequence[float], distance: float) -> list[float]:
    """Heights moved upwards as far as each needs to lie `distance` above the one below, in the same order."""
    placed = dict.fromkeys(range(len(heights)), 0.0)
    last = -float("inf")
    for k in sorted(placed, key=heights.__getitem__):
        last = placed[k] = max(heights[k], last + distance)
    beyond = max(0.0, last - 1.0)
    return [placed[k] - beyond for k in range(len(heights))]


def _saved(figure: plt.Figure, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    figure.savefig(buffer, format=kind, dpi=160, metadata=metadata, **options)
    return buffer.getvalue()


def _has_images(figure: plt.Figure) -> bool:
    """Whether there are pixels in it, which a drawing would hold as a picture again."""
    return any(axis.images for axis in figure.axes)


def sheet(rows: Mapping[str, torch.Tensor], columns: int = 10) -> plt.Figure:
    """One row of images a source; each value is [N, 3, H, W], clipped to [0, 1] for the eye."""
    figure, axes = plt.subplots(len(rows), 1, figsize=(0.8 * columns, 0.9 * len(rows)), squeeze=False)
    for axis, (name, images) in zip(axes[:, 0], rows.items()):
        strip = torch.cat([image for image in images[:columns]], dim=2).clamp(0, 1).permute(1, 2, 0)
        axis.imshow(strip.numpy(), interpolation="nearest")
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set_xticks([]), axis.set_yticks([])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    figure.tight_layout(pad=0.2)
    return figure


def class_colours(labels: torch.Tensor) -> torch.Tensor:
    """Labels of pixels [N, H, W] as colours [N, 3, H, W] for `sheet`: class 0 pale, no label (-1) black."""
    table = torch.tensor([*(PALETTE[k % len(PALETTE)] for k in range(int(labels.max()))), (0.0, 0.0, 0.0)])
    table = torch.cat([torch.full((1, 3), 0.9), table])
    return table[labels.long()].permute(0, 3, 1, 2)


def curves(
    panels: Mapping[str, Mapping[str, Sequence[float]]], *, x: Sequence[float] | None = None, xlabel: str, ylabels: Sequence[str],
    log: bool = False, outside: bool = False,
) -> plt.Figure:  # fmt: skip
    """A panel for each entry of `panels`; each panel maps labels to values over `x` (default: 0, 1, ...).

    outside: one legend for all panels, to their right, by the labels of the first panel; a tick at each x.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels) + 0.6, 3.0), squeeze=False)
    styles = ("-", "--", "-.", ":")
    for axis, (title, series), ylabel in zip(axes[0], panels.items(), ylabels):
        for (label, values), style in zip(series.items(), styles * 3):
            where = range(len(values)) if x is None else x
            axis.plot(where, values, style, label=label, color=SOURCES.get(label), linewidth=1.6)
        axis.set(title=title, xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
        if not outside:
            DIRECT.add(axis)
        elif x is not None:
            axis.set_xticks(list(x))
    figure.tight_layout()
    if outside:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def by_source(
    table: Mapping[str, Mapping[str, Sequence[float]]], *, ylabel: str, reference: float | None = None
) -> plt.Figure:
    """Every point over seeds, and their mean, for each setting (a panel) and source of images (a column)."""
    figure, axes = plt.subplots(1, len(table), figsize=(2.1 * len(table) + 0.8, 3.2), squeeze=False)
    for axis, (setting, sources) in zip(axes[0], table.items()):
        for i, (source, values) in enumerate(sources.items()):
            color = SOURCES.get(source, PALETTE[i])
            spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else [0]
            axis.plot(i + np.asarray(spread), values, MARKERS.get(source, "o"), color=color, markersize=4, alpha=0.8)
            axis.hlines(np.mean(values), i - 0.32, i + 0.32, color=color, linewidth=2)
        if reference is not None and np.min([min(v) for v in sources.values()]) > reference - 15:
            axis.axhline(reference, color=INK, linewidth=1, linestyle=":")
        axis.set_xticks(range(len(sources)), list(sources), rotation=60)
        axis.set_title(setting)
    axes[0, 0].set_ylabel(ylabel)
    figure.tight_layout()
    return figure


def bars(panels: Mapping[str, Mapping[str, float]], *, ylabels: Sequence[str], log: bool = False) -> plt.Figure:
    """A bar a label for each panel, in the colours of the sources."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels) + 0.4, 3.0), squeeze=False)
    for axis, (title, values), ylabel in zip(axes[0], panels.items(), ylabels):
        colors = [SOURCES.get(label, PALETTE[i % 10]) for i, label in enumerate(values)]
        axis.bar(range(len(values)), list(values.values()), color=colors)
        axis.set_xticks(range(len(values)), list(values), rotation=45, ha="right", rotation_mode="anchor")
        axis.set(title=title, ylabel=ylabel, yscale="log" if log else "linear")
    figure.tight_layout()
    return figure


def printed(axis: plt.Axes, values: Sequence[float | None], label: str = "paper") -> None:
    """What a paper prints, as hollow marks over the columns of a panel, said below it; None where it prints nothing."""
    places = [i for i, value in enumerate(values) if value is not None]
    axis.plot(places, [values[i] for i in places], "D", color=INK, markerfacecolor="none", markersize=7)
    axis.set_xlabel(f"◇ {label}")
    axis.figure.tight_layout()


def scatter(
    panels: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, xlabel: str, ylabel: str
) -> plt.Figure:  # fmt: skip
    """A panel of points for each entry of `panels`: x and y."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels) + 0.4, 3.0), squeeze=False)
    for axis, (title, (x, y)), color in zip(axes[0], panels.items(), PALETTE):
        axis.plot(x, y, "o", color=color, markersize=4, alpha=0.8)
        axis.set(title=title, xlabel=xlabel)
    axes[0, 0].set_ylabel(ylabel)
    figure.tight_layout()
    return figure
