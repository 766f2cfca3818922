# SPDX-License-Identifier: MIT-0
"""The results as a bar chart in SVG."""
from typing import Dict, List
from xml.sax.saxutils import escape

WIDTH, LABELS, VALUES = 900, 250, 190
BAR, GAP, TOP = 15, 14, 64
COLOURS = {"gwlbtun": "#0b6e99", "baseline": "#b8b8b8"}


def packets(rate: float) -> str:
    """A rate of packets as people write it."""
    return f"{rate / 1e6:.2f} M/s" if rate >= 1e6 else f"{rate / 1e3:.0f} k/s"


def svg(title: str, subtitle: str, rows: List[Dict]) -> str:
    """rows: label, gwlbtun and baseline (packets/s), ratio, and at_least (the generator was the limit)."""
    most = max(max(row["gwlbtun"], row["baseline"]) for row in rows)
    room = WIDTH - LABELS - VALUES
    height = TOP + len(rows) * (2 * BAR + GAP) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13" fill="#222">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="24" font-size="17" font-weight="bold">{escape(title)}</text>',
        f'<text x="12" y="45" fill="#555">{escape(subtitle)}</text>',
    ]
    legend = WIDTH - VALUES
    for name, colour in COLOURS.items():
        parts.append(f'<rect x="{legend}" y="33" width="12" height="12" fill="{colour}"/>'
                     f'<text x="{legend + 17}" y="44">{name}</text>')
        legend += 85
    y = TOP
    for row in rows:
        parts.append(f'<text x="{LABELS - 10}" y="{y + BAR + 5}" text-anchor="end">{escape(row["label"])}</text>')
        for name, colour in COLOURS.items():
            width = max(1.0, room * row[name] / most)
            text = packets(row[name])
            if name == "gwlbtun":
                text = f'<tspan font-weight="bold">{"≥ " if row["at_least"] else ""}{row["ratio"]:.1f}×</tspan>  {text}'
            parts.append(f'<rect x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'
                         f'<text x="{LABELS + width + 7:.1f}" y="{y + BAR - 3}">{text}</text>')
            y += BAR
        y += GAP
    parts.append("</svg>\n")
    return "\n".join(parts)
