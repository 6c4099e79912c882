"""The table of the embedded benchmark from a saved result, beside what is aimed at.

llava-mini evaluate embedded --json > docs/results/embedded/adapter-6.json
python tools/benchmark_table.py docs/results/embedded/adapter-6.json
"""

import json
import sys
from pathlib import Path

_AIMS = {
    **{"shape": 90, "colour": 85, "count": 85, "presence": 85, "left_right": 75, "above_below": 75, "name": 60},
    **{"photographs all": 50, "video order": 75},
}
"""Least percent of right answers; on unseen scenes fifteen less than on new ones."""
_CONTROLS = ("shuffled", "blank", "question_only", "majority")


def main(path: Path) -> None:
    """Print the table in Markdown, and how many aims are reached."""
    told = json.loads(path.read_text(encoding="utf-8"))
    version = told.pop("benchmark")["version"]
    aims = _AIMS | {f"unseen {kind}": 100 * told[kind]["accuracy"] - 15 for kind in _AIMS if f"unseen {kind}" in told}
    print(f"| version {version}: question | n | right (95 %) | shuffled | blank | question alone | majority | aim |")
    print("|---" * 8 + "|")
    for kind, row in told.items():
        share = {name: 100 * value for name, value in row.items() if isinstance(value, float)}
        right = f"{share['accuracy']:.1f} ({share['low']:.0f}–{share['high']:.0f})"
        aim = f"{aims[kind]:.0f}{' ✓' if share['accuracy'] >= aims[kind] else ''}" if kind in aims else ""
        controls = [f"{share[name]:.1f}" for name in _CONTROLS]
        print(f"| {' | '.join([kind.replace('_', '-'), str(row['n']), right, *controls, aim])} |")
    reached = sum(100 * told[kind]["accuracy"] >= aim for kind, aim in aims.items())
    print(f"\n{reached} of {len(aims)} aims are reached.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
