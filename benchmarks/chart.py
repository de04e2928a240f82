"""The chart: a bar for each figure that has a target (how far it is below it), a small plot for each curve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from benchmarks.figures import Curve, Figure, Result

WIDTH, LABEL, ROW, PLOT, GAP = 1100, 470, 22, 200, 40
MET, MISSED, GREY = "#2a7f62", "#c0392b", "#888"


def draw(results: Mapping[str, list[Result]]) -> str:
    """An SVG of all ``results``."""
    figures = [each for part in results.values() for each in part if isinstance(each, Figure) and each.target]
    curves = [each for part in results.values() for each in part if isinstance(each, Curve)]
    bars = [_bar(figure, 40 + row * ROW) for row, figure in enumerate(figures)]
    top = 40 + len(figures) * ROW + GAP
    plots = [
        _plot(curve, (index % 3) * (WIDTH // 3), top + index // 3 * (PLOT + GAP)) for index, curve in enumerate(curves)
    ]
    height = top + math.ceil(len(curves) / 3) * (PLOT + GAP)
    one = LABEL + (WIDTH - LABEL) / 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            _text(10, 20, "Share of what the target allows (the line is the target; shorter is better)", size=14),
            *bars,
            f'<line x1="{one}" x2="{one}" y1="30" y2="{40 + len(figures) * ROW}" stroke="black"/>',
            *plots,
            "</svg>\n",
        ]
    )


def _bar(figure: Figure, y: float) -> str:
    assert figure.target is not None
    share = figure.target / figure.value if figure.at_least else figure.value / figure.target
    share = 0.0 if math.isnan(share) else max(0.0, share)
    length = min(share, 1.9) * (WIDTH - LABEL) / 2
    colour = MET if figure.met else MISSED
    value = f"{figure.value:.3g} {figure.unit}"
    return (
        _text(LABEL - 8, y + 14, figure.name, anchor="end")
        + f'<rect x="{LABEL}" y="{y + 3}" width="{length:.1f}" height="{ROW - 6}" fill="{colour}"/>'
        + _text(LABEL + length + 5, y + 14, value, colour=GREY)
    )


def _plot(curve: Curve, left: float, top: float) -> str:
    """Cost over x, both logarithmic (a zero is drawn as a half)."""
    logs = [(math.log10(max(x, 0.5)), math.log10(max(y, 1e-6))) for x, y in curve.points]
    (x0, x1), (y0, y1) = (_range([x for x, _ in logs]), _range([y for _, y in logs]))
    wide, tall = WIDTH / 3 - 70, PLOT - 50

    def place(x: float, y: float) -> tuple[float, float]:
        return left + 50 + (x - x0) / (x1 - x0) * wide, top + 25 + (1 - (y - y0) / (y1 - y0)) * tall

    dots = [place(x, y) for x, y in logs]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
    return "".join(
        [
            _text(left + 10, top + 12, f"{curve.name}: exponent {curve.exponent:.2f}"),
            f'<rect x="{left + 50}" y="{top + 25}" width="{wide:.0f}" height="{tall}" fill="none" stroke="{GREY}"/>',
            f'<polyline points="{path}" fill="none" stroke="{MET}" stroke-width="2"/>',
            *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{MET}"/>' for x, y in dots),
            _text(left + 46, top + 32, f"{10**y1:.3g}", anchor="end", colour=GREY),
            _text(left + 46, top + 25 + tall, f"{10**y0:.3g}", anchor="end", colour=GREY),
            _text(left + 50, top + PLOT - 10, f"{curve.points[0][0]:,.0f}", colour=GREY),
            _text(
                left + 50 + wide, top + PLOT - 10, f"{curve.points[-1][0]:,.0f} {curve.x}", anchor="end", colour=GREY
            ),
            _text(left + 10, top + 32, curve.unit, colour=GREY),
        ]
    )


def _range(values: list[float]) -> tuple[float, float]:
    """The ends of an axis; at least a factor of ten, so that noise does not fill the plot."""
    low, high = min(values), max(values)
    spare = max(0.0, 1.0 - (high - low)) / 2
    return low - spare, high + spare


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = "black", size: int = 12) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{escape(text)}</text>'
    )
