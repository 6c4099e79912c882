"""What is right of questions about shapes and about other things, from the answers that a benchmark wrote.

On unseen scenes all stands on photographs. Shapes are known; of other things the names are, and these drawings are not.
So the first column tells what new grounds cost, the second new grounds and new drawings together.

llava-mini evaluate embedded --answers answers.jsonl
python tools/shapes_or_things.py answers.jsonl
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from llava_mini.data.names import plural
from llava_mini.data.scenes import SHAPES
from llava_mini.intervals import clustered_wilson

_KINDS = ("colour", "count", "presence", "where")
"""Kinds whose question names the one sort of thing that it is about."""
SHAPE = re.compile(rf"\b({'|'.join(word for name in ('shape', *SHAPES) for word in (name, plural(name)))})\b")
"""What names a shape."""


def main(path: Path) -> None:
    """Print the table in Markdown."""
    asked: dict[tuple[str, bool], list[dict[str, Any]]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        if one["suite"] in ("scenes", "unseen-scenes") and one["kind"] in _KINDS:
            kind = one["kind"]
            if kind == "presence":
                kind += " (yes)" if one["expected"].lower().startswith("yes") else " (no)"
            suite = "unseen " if one["suite"].startswith("unseen") else ""
            asked[suite + kind, bool(SHAPE.search(one["question"]))].append(one)
    print("| question | about shapes | right (95 %) | about other things | right (95 %) |")
    print("|---" * 5 + "|")
    for kind in sorted({kind for kind, _ in asked}, key=lambda kind: (kind.startswith("unseen"), kind)):
        print(f"| {kind} | {_told(asked[kind, True])} | {_told(asked[kind, False])} |")


def _told(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "0 | –"
    right = [bool(one["right"]) for one in rows]
    low, high = clustered_wilson(right, [one["picture"] for one in rows])
    return f"{len(rows)} | {100 * sum(right) / len(rows):.1f} ({100 * low:.0f}–{100 * high:.0f})"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
