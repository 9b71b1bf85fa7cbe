"""The picture of docs/benchmarks.md: medians of the commands of ``starts.py``, one panel a command, one line an engine.

matplotlib is a development dependency and imported only here. The scale is logarithmic: a cold start and a pooled
one are to be read in the same picture. So there are dots and no bars, whose lengths would mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.figures import Figures

COLOURS = {"docker": "#1d63ed", "podman": "#892ca0", "hyper pool": "#0b7a3b", "hyper template": "#3fa564"}
"""Of what begins so; whatever else is Hyper's own slower rungs."""
OTHER = "#8a9a90"
TICKS_MS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


def draw(
    samples: Mapping[str, Mapping[str, Sequence[float]]], commands: Sequence[str], target: Path, caption: str
) -> None:
    """An SVG of the commands that were measured, in milliseconds. The same samples give the same file."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    shown = [command for command in commands if samples.get(command)]
    lines = [len(samples[command]) for command in shown]
    with pyplot.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "hyper", "font.size": 9, "font.family": "sans-serif"}
    ):
        figure, panels = pyplot.subplots(
            len(shown),
            squeeze=False,
            figsize=(8, 0.9 + sum(0.24 * count + 0.55 for count in lines)),
            gridspec_kw={"height_ratios": lines},
            sharex=True,
            layout="constrained",
        )
        for panel, command in zip(panels[:, 0], shown, strict=True):
            figures = {engine: Figures.of(values) for engine, values in samples[command].items()}
            for place, (name, one) in enumerate(figures.items()):
                panel.plot([one.least, one.p95], [place, place], color=colour(name), linewidth=2, alpha=0.5)
                panel.plot([one.median], [place], "o", color=colour(name), markersize=6)
                panel.text(one.p95 * 1.05, place, f"{one.median:,.0f}", va="center")
            panel.set_yticks(range(len(figures)), list(figures))
            panel.set_ylim(-0.6, len(figures) - 0.4)
            if "docker" in figures:
                panel.axvline(figures["docker"].median, color=COLOURS["docker"], linewidth=0.8, linestyle=":")
            panel.set_xscale("log")
            panel.set_xticks(TICKS_MS, [f"{tick:,}" for tick in TICKS_MS])
            panel.minorticks_off()
            panel.grid(axis="x", color="#dddddd", linewidth=0.6)
            panel.set_title(command, loc="left", fontsize=9, fontweight="bold")
            panel.invert_yaxis()
            panel.spines[["top", "right"]].set_visible(False)
        last = panels[-1, 0]
        legend = "ms: the dot is the median, the line goes from the least to the 95th percentile; logarithmic scale"
        last.set_xlabel(f"{legend}\n{caption}")
        every = [Figures.of(values) for command in shown for values in samples[command].values()]
        last.set_xlim(min(one.least for one in every) * 0.8, max(one.p95 for one in every) * 1.6)
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def colour(engine: str) -> str:
    if "distribution" in engine:
        return OTHER
    return next((value for name, value in COLOURS.items() if engine.startswith(name)), OTHER)
