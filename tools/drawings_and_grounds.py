"""What a new drawing costs and what a photographed ground costs: scenes of both, of each alone, and of neither.

Drawings are those that were trained on, or the held-out ones; grounds are drawn, or corners of the benchmark's
photographs. Of each pair new development scenes are asked, beside shuffled pictures.

python -m tools.drawings_and_grounds data/sources
python -m tools.drawings_and_grounds data/sources runs/mine/model
"""

import sys
from pathlib import Path

from llava_mini import Assistant
from llava_mini.data.cutouts import load_cutouts
from llava_mini.data.layouts import Ground, SceneSplit
from llava_mini.data.scenes import SceneLibrary
from llava_mini.evaluation.controls import Asked, ask_with_controls
from llava_mini.evaluation.photographs import load_photographs
from llava_mini.evaluation.suites import ask_scenes
from llava_mini.intervals import clustered_wilson
from tools.shapes_or_things import SHAPE

SCENES = 100
_KINDS = ("name", "presence", "colour", "where")


def main(sources: Path, model: str | None = None) -> None:
    """Print the table in Markdown."""
    trained, unseen = load_cutouts(sources, "train"), load_cutouts(sources, "unseen")
    grounds = [Ground(one.image, one.names) for one in load_photographs(sources) if one.group != "stamps"]
    assistant = Assistant.load(model)
    kinds = [f"{kind} (n)" for kind in _KINDS]
    print(f"| drawings | grounds | n | right (95 %) | shuffled | of shapes (n) | {' | '.join(kinds)} |")
    print("|---" * (6 + len(kinds)) + "|")
    for drawings, cutouts in (("trained", trained), ("new", unseen)):
        ways: tuple[tuple[str, SceneSplit, SceneLibrary], ...] = (
            ("drawn", "new", SceneLibrary(cutouts)),
            ("photographs", "unseen", SceneLibrary(trained, cutouts, grounds)),
        )
        for ground, split, library in ways:
            suite = ask_scenes(library, split, SCENES)
            asked = ask_with_controls(assistant, suite.media, suite.items)
            print(f"| {drawings} | {ground} | {_told(asked)} |", flush=True)


def _told(asked: list[Asked]) -> str:
    right = [one.item.is_right(one.answer) for one in asked]
    low, high = clustered_wilson(right, [one.item.picture for one in asked])
    shuffled = sum(one.item.is_right(one.shuffled) for one in asked) / len(asked)
    shapes = [one for one in asked if SHAPE.search(one.item.question)]
    things = [one for one in asked if not SHAPE.search(one.item.question)]
    of_kinds = [_share([one for one in things if one.item.kind == kind]) for kind in _KINDS]
    all_ = f"{100 * sum(right) / len(right):.0f} ({100 * low:.0f}–{100 * high:.0f})"
    return " | ".join([str(len(asked)), all_, f"{100 * shuffled:.0f}", _share(shapes), *of_kinds])


def _share(asked: list[Asked]) -> str:
    right = sum(one.item.is_right(one.answer) for one in asked)
    return f"{100 * right / len(asked):.0f} ({len(asked)})" if asked else "–"


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), *sys.argv[2:])
