"""A page on which every answer can be looked at: picture, question, answer, truth, score, with filters.

The page holds its answers as data and shows some at a time; small pictures lie in a folder beside it. What a model or a
data set wrote is text here and never markup.
"""

import hashlib
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from llava_mini.errors import MediaError
from llava_mini.evaluation.answering import open_source
from llava_mini.evaluation.benchmarks import Benchmark
from llava_mini.evaluation.metrics import LETTERS, points_of
from llava_mini.evaluation.results import Scored
from llava_mini.evaluation.samples import Sample, flat
from llava_mini.inputs.media import FrameSampling, Picture

_SIDE_PX = 220
_FRAMES = 4


def write_report(benchmark: Benchmark, scored: Scored, folder: Path, *, pictures: int = 2000) -> Path:
    """Write `report.html`, and small pictures beside it.

    Args:
        pictures: so many of the pictures or videos are shown, at most; the words of all answers are there.
    """
    shown: dict[str, str] = {}
    rows = []
    for one in flat(scored.units):
        sample, line = one.sample, scored.rows[one.sample.id]
        points = points_of(benchmark.points, one) if sample.truths and scored.result.score is not None else None
        key = _name(sample)
        if key not in shown and len(shown) < pictures:
            shown[key] = _small_picture(sample, folder / "pictures", key)
        rows.append(
            {
                "id": sample.id,
                "kind": sample.kind,
                "picture": shown.get(key, ""),
                "question": sample.question,
                "answer": one.answer,
                "shuffled": line.get("shuffled"),
                "blank": line.get("blank"),
                "truth": _truth(sample),
                "points": points,
                "verdict": dict(one.verdict),
                "error": line.get("error", ""),
            }
        )
    path = folder / "report.html"
    path.write_text(_page(benchmark, scored, rows), encoding="utf-8")
    return path


def _truth(sample: Sample) -> str:
    if not sample.truths:
        return "not published"
    if sample.choices:
        letter = sample.truths[0]
        return f"{letter}. {sample.choices[LETTERS.index(letter)]}"
    counts = {truth: sample.truths.count(truth) for truth in dict.fromkeys(sample.truths)}
    return ", ".join(f"{truth} ×{n}" if n > 1 else truth for truth, n in counts.items())


def _name(sample: Sample) -> str:
    source = sample.source if isinstance(sample.source, bytes) else str(sample.source).encode()
    return hashlib.sha256(source + str(sample.clip_s).encode()).hexdigest()[:16]


def _small_picture(sample: Sample, folder: Path, key: str) -> str:
    """Write a small picture, or a strip of four frames, and return its name; "" where there is none."""
    path = folder / f"{key}.jpg"
    if not path.is_file():
        folder.mkdir(exist_ok=True)
        try:
            opened = open_source(sample, FrameSampling(max_frames=_FRAMES))
            images = [opened.image] if isinstance(opened, Picture) else list(opened.frames())
        except (MediaError, OSError):
            return ""
        for image in images:
            image.thumbnail((_SIDE_PX, _SIDE_PX) if len(images) == 1 else (_SIDE_PX // 2, _SIDE_PX // 2))
        strip = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)), "white")
        left = 0
        for image in images:
            strip.paste(image.convert("RGB"), (left, 0))
            left += image.width
        strip.save(path, "JPEG", quality=80)
    return f"pictures/{path.name}"


def _page(benchmark: Benchmark, scored: Scored, rows: list[dict[str, Any]]) -> str:
    result = scored.result
    figures = "".join(_figure(name, value) for name, value in _figures(result.scores, result.metric).items())
    told = [f"{result.asked} of {result.of} questions", f"model {result.model}"]
    if result.score is not None:
        interval = "" if result.low is None else f" ({result.low:.1f}–{result.high:.1f})"
        controls = [
            f"{name} {value:.1f}"
            for name, value in (("shuffled", result.shuffled), ("blank", result.blank))
            if value is not None
        ]
        told.insert(0, " · ".join([f"{result.metric} {result.score:.1f}{interval}", *controls]))
    if result.judge:
        told.append(f"judged by {result.judge['model']}, prompts {result.judge['prompts']}: {result.judge['note']}")
    data = json.dumps(rows).replace("<", "\\u003c")
    return _TEMPLATE % {
        "title": escape(f"{benchmark.title}: {result.model}"),
        "told": "".join(f"<p>{escape(line)}</p>" for line in told),
        "figures": figures,
        "data": data,
    }


def _figures(scores: Mapping[str, float], first: str) -> dict[str, float]:
    return {name: scores[name] for name in sorted(scores, key=lambda name: (name != first, name))}


def _figure(name: str, value: float) -> str:
    return f"<tr><td>{escape(name)}</td><td>{value:.1f}</td></tr>"


_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>%(title)s</title>
<style>
:root { color-scheme: light dark; --line: #8884; --right: #2a7d4f; --wrong: #b3472e; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1080px; padding: 1.5rem; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; } p { margin: .2rem 0; }
details { margin: .8rem 0; } table { border-collapse: collapse; } td { padding: .1rem .8rem .1rem 0; }
td:last-child { text-align: right; font-variant-numeric: tabular-nums; }
form { position: sticky; top: 0; display: flex; flex-wrap: wrap; gap: .6rem; padding: .7rem 0; background: Canvas; }
select, input, button { font: inherit; padding: .25rem .5rem; } input { flex: 1 1 14rem; }
article { display: grid; grid-template-columns: 230px 1fr; gap: 1rem; padding: .9rem 0; }
article { border-top: 1px solid var(--line); }
article img { max-width: 230px; } .question { white-space: pre-wrap; margin: 0 0 .5rem; }
dl { display: grid; grid-template-columns: 5.5rem 1fr; margin: 0; gap: .1rem .6rem; }
dt { opacity: .65; } dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.right { color: var(--right); } .wrong { color: var(--wrong); } .answer { font-weight: 600; }
@media (max-width: 640px) { article { grid-template-columns: 1fr; } }
</style></head><body>
<h1>%(title)s</h1>%(told)s
<details><summary>All figures</summary><table>%(figures)s</table></details>
<form onsubmit="return false">
<select id="kind" aria-label="kind"><option value="">all kinds</option></select>
<select id="score" aria-label="score">
<option value="">right and wrong</option><option value="right">right</option>
<option value="wrong">wrong</option><option value="unscored">not scored</option><option value="failed">failed</option>
<option value="blind">right with another or a grey picture too</option></select>
<input id="words" type="search" placeholder="words in question, answer or truth">
<span id="count"></span></form>
<main id="rows"></main><button id="more">more</button>
<script type="application/json" id="data">%(data)s</script>
<script>
const rows = JSON.parse(document.getElementById("data").textContent), page = 50;
const at = id => document.getElementById(id), make = (tag, text, name) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (name) node.className = name;
  return node;
};
for (const kind of [...new Set(rows.map(row => row.kind).filter(Boolean))].sort()) {
  const option = make("option", kind); option.value = kind; at("kind").append(option);
}
const state = row => row.error ? "failed" : row.points === null ? "unscored" : row.points >= 0.5 ? "right" : "wrong";
const blind = row => state(row) === "right" && [row.shuffled, row.blank].includes(row.answer);
function shown() {
  const kind = at("kind").value, score = at("score").value, words = at("words").value.toLowerCase();
  return rows.filter(row => (!kind || row.kind === kind)
    && (!score || (score === "blind" ? blind(row) : state(row) === score))
    && (!words || [row.id, row.question, row.answer, row.truth].join("\\n").toLowerCase().includes(words)));
}
function article(row) {
  const node = make("article"), left = make("div"), right = make("div"), list = make("dl");
  if (row.picture) {
    const image = make("img"); image.src = row.picture; image.loading = "lazy"; image.alt = ""; left.append(image);
  }
  right.append(make("p", row.question, "question"));
  const told = [["answer", row.answer, "answer " + state(row)], ["truth", row.truth], ["shuffled", row.shuffled],
    ["blank", row.blank], ["score", row.points === null ? null : row.points.toFixed(2)],
    ["judge", Object.entries(row.verdict).map(([name, value]) => name + " " + value).join(", ")],
    ["error", row.error], ["id", row.id + (row.kind ? " · " + row.kind : "")]];
  for (const [name, text, style] of told) {
    if (text !== null && text !== undefined && text !== "") list.append(make("dt", name), make("dd", text, style));
  }
  right.append(list); node.append(left, right);
  return node;
}
let found = [], given = 0;
function more() {
  for (const row of found.slice(given, given + page)) at("rows").append(article(row));
  given += page;
  at("more").hidden = given >= found.length;
}
function begin() {
  found = shown(); given = 0; at("rows").replaceChildren();
  at("count").textContent = found.length + " of " + rows.length;
  more();
}
for (const id of ["kind", "score", "words"]) at(id).addEventListener("input", begin);
at("more").addEventListener("click", more);
begin();
</script></body></html>
"""
