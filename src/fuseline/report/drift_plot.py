"""The pictures of an evaluation on new rows, drawn without any global state of matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

SHOWN = 30
"""So many of the largest shifts are drawn."""

COLORS = {"stable": "0.6", "moderate": "C1", "large": "C3"}


def draw_assessment(report: Mapping[str, Any], folder: Path) -> None:
    """Write ``drift.png`` and, for each target with labels, ``now-TARGET.png``."""
    if report["drift"]["tests"]:
        drifted(report["drift"]).savefig(folder / "drift.png", dpi=110)
    for target, part in report["targets"].items():
        if any(score["then"] for score in part["metrics"].values()):
            then_and_now(target, part["metrics"]).savefig(folder / f"now-{target}.png", dpi=110)


def drifted(drift: Mapping[str, Any]) -> Figure:
    """The population stability index of the largest shifts, coloured by what they amount to, with the bounds."""
    tests: Sequence[Mapping[str, Any]] = drift["tests"][:SHOWN]
    figure = Figure(figsize=(7, 1.2 + 0.25 * len(tests)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(tests)), [test["psi"] for test in tests], color=[COLORS[test["size"]] for test in tests])
    axes.set_yticks(range(len(tests)), [_name(test) for test in tests], fontsize=8)
    axes.invert_yaxis()
    for bound in ("moderate", "large"):
        axes.axvline(drift["rule"][bound], color=COLORS[bound], lw=1, ls="--", label=f"{bound}, if significant")
    axes.legend(fontsize=8, loc="lower right")
    axes.set(xlabel="population stability index", title="drift from the test rows")
    return figure


def then_and_now(target: str, metrics: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Each metric's interval on the test rows (grey) and on the new ones (blue; red if it is worse)."""
    both = [(name, score) for name, score in metrics.items() if score["then"] and score["now"]]
    figure = Figure(figsize=(7, 0.6 + 0.75 * len(both)), layout="constrained")
    for axes, (name, score) in zip(figure.subplots(len(both), 1, squeeze=False)[:, 0], both, strict=True):
        worse = score["change"] is not None and score["change"]["worse"]
        for y, (part, color) in enumerate((("now", "C3" if worse else "C0"), ("then", "0.5"))):
            its = score[part]
            if None not in its.values():
                reach = [[max(its["value"] - its["low"], 0)], [max(its["high"] - its["value"], 0)]]
                axes.errorbar(its["value"], y, xerr=reach, fmt="o", color=color, capsize=3)
        axes.set_yticks([0, 1], ["now", "then"], fontsize=7)
        axes.set_ylim(-0.6, 1.6)
        axes.set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
        axes.tick_params(axis="x", labelsize=7)
    figure.suptitle(f"{target}: on the test rows and now", fontsize=10)
    return figure


def _name(test: Mapping[str, Any]) -> str:
    text: str = test["name"] + {"missing": " (missing)"}.get(test["test"], "")
    text += {"disagreement": " (disagreement)"}.get(test["part"], "")
    return (text if len(text) <= 40 else text[:39] + "…").replace("$", r"\$")
