"""One style for all figures, in colours that the colour-blind tell apart.

Colours: Okabe and Ito, "Color Universal Design" (2008).
"""

import textwrap
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#555555"
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "llava-mini",
}
_LETTERS_AN_INCH = 14


def save(figure: Figure, path: Path, title: str) -> None:
    """Write a figure as PNG and SVG; a long title is broken at its width."""
    letters = int(figure.get_figwidth() * _LETTERS_AN_INCH)
    figure.suptitle("\n".join(textwrap.wrap(title, letters)), fontsize=9, x=0.01, ha="left", parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=150)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
