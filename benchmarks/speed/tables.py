"""The table, the pictures and the document that are made of the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from speed.growth import slopes

MARKS = {True: "✓", False: "✗", None: ""}


def board(results: Mapping[str, Any]) -> str:
    """One line for each claim, as Markdown."""
    lines = ["| Work | measured | least to most | asked | |", "|---|---:|---:|---|---|"]
    for case in results.values():
        for claim in case["claims"]:
            spread = f"{number(claim['low'])} to {number(claim['high'])}" if case["rounds"] > 1 else "one round"
            unit = "" if claim["unit"] == "×" else f" {claim['unit']}"
            lines.append(
                f"| {claim['work']} | {number(claim['value'])}{unit} | {spread} | {claim['asked']} | {MARKS[claim['met']]} |"
            )
    return "\n".join(lines)


def sides(results: Mapping[str, Any]) -> str:
    """What each side took and how well it did, as Markdown."""
    lines = ["| Case | side | seconds | accuracy | log loss | rounds |", "|---|---|---:|---:|---:|---:|"]
    for name, case in results.items():
        for side, found in case["sides"].items():
            if "seconds" in found:
                shown = [measure(found, key) for key in ("seconds", "accuracy", "log_loss")]
                lines.append(f"| {name} | {side} | {' | '.join(shown)} | {case['rounds']} |")
    return "\n".join(lines)


def measure(found: Mapping[str, Any], key: str) -> str:
    if key not in found:
        return ""
    value = found[key]
    return f"{number(value['median'])} ({number(value['low'])} to {number(value['high'])})"


def checks(results: Mapping[str, Any]) -> str:
    """What had to hold beside the numbers, as Markdown."""
    return "\n".join(
        f"- {name}: {check['says']}: {'yes' if check['holds'] else '**no**'}."
        for name, case in results.items()
        for check in case["checks"]
    )


def machines(results: Mapping[str, Any]) -> str:
    """What the cases were measured on, in words; one line if it was one machine."""
    found = {
        f"{m['cores']} cores of {m['cpu']} ({', '.join(m['units'])}), {m['system']}, Python {m['python']}"
        for m in (case["machine"] for case in results.values())
    }
    first, last = (pick(case["at"][:10] for case in results.values()) for pick in (min, max))
    return f"{'; '.join(sorted(found))}; measured {first if first == last else f'{first} to {last}'}."


def growth_table(growth: Mapping[str, Any]) -> str:
    """Per axis the seconds and the slopes, as Markdown."""
    lines = ["| Time against | seconds | slope over all | slope between the two largest |", "|---|---|---:|---:|"]
    for axis, found in growth.items():
        seconds = [point["median"] for point in found["seconds"]]
        whole, last = slopes(found["sizes"], seconds)
        points = ", ".join(f"{size:,}: {number(s)}" for size, s in zip(found["sizes"], seconds, strict=True))
        lines.append(f"| {axis} | {points} | {whole:.2f} | {last:.2f} |")
    return "\n".join(lines)


def number(value: float) -> str:
    """Three digits that count.

    >>> number(0.01234), number(12.345), number(123456.7)
    ('0.0123', '12.3', '123,457')
    """
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{digits}f}"


def picture(results: Mapping[str, Any]) -> Figure:
    """Every ratio that something is asked of, over what is asked: beyond the line is met."""
    claims = [claim for case in results.values() for claim in case["claims"] if claim["asked"]][::-1]
    figure = Figure(figsize=(10, 1.2 + 0.34 * len(claims)), layout="constrained")
    axes = figure.subplots()
    for place, claim in enumerate(claims):
        least, bound = claim["asked"].startswith("at least"), float(claim["asked"].split()[2])
        value, *ends = (x / bound if least else bound / x for x in (claim["value"], claim["low"], claim["high"]))
        colour = {True: "#2a7f62", False: "#b3472d", None: "#8a8f98"}[claim["met"]]
        axes.plot([min(ends), max(ends)], [place, place], color=colour, linewidth=2, alpha=0.5)
        axes.plot([value], [place], "o", color=colour)
        axes.annotate(
            f"{number(claim['value'])}  ({claim['asked'].split(' (')[0]})",
            (max(*ends, value), place),
            (8, -3),
            textcoords="offset points",
            fontsize=8,
        )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.set_yticks(range(len(claims)), [claim["work"] for claim in claims], fontsize=8)
    axes.set_xlabel("how far beyond what is asked (1: just met; right of it: better)")
    return figure


def growth_picture(growth: Mapping[str, Any]) -> Figure:
    """Seconds against each axis, both logarithmic, with the line of slope 1 through the last point."""
    figure = Figure(figsize=(4 * len(growth), 3.6), layout="constrained")
    for axes, (axis, found) in zip(np.atleast_1d(figure.subplots(1, len(growth), sharey=True)), growth.items(), strict=True):
        sizes, points = np.array(found["sizes"]), found["seconds"]
        middle = np.array([point["median"] for point in points])
        ends = np.abs([[point["median"] - point["low"], point["high"] - point["median"]] for point in points]).T
        axes.errorbar(sizes, middle, ends, fmt="o-", capsize=3, color="#2a7f62")
        axes.plot(sizes, middle[-1] * sizes / sizes[-1], ":", color="#8a8f98", label="slope 1")
        whole, last = slopes(found["sizes"], middle.tolist())
        axes.set_title(f"slope {whole:.2f}, at the end {last:.2f}", fontsize=10)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(axis)
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("seconds of one epoch")
    return figure
