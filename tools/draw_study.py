"""Draw the figures of docs/analysis.md: from saved analyses, and compression on the bundled pictures.

    python tools/draw_study.py docs/results/analysis docs/images

Saved are `analysis.json` files of `llava-mini analyze`, NAME.json each, with or without their samples:

    jq -c 'del(.profile.samples, .readings)' runs/analysis-embedded/analysis.json > docs/results/analysis/embedded.json
"""

import json
import sys
from pathlib import Path

from llava_mini.analysis import figures
from llava_mini.analysis.fusion import read
from llava_mini.analysis.subjects import MiniSubject, load_subject
from llava_mini.inputs.media import load_media
from llava_mini.inputs.processor import frames_of

_EXAMPLES = Path("src/llava_mini/examples")
_PICTURES = ("shapes.png", "counting.png", "apple.png", "cat.png", "house.png")
_VISION_TOKENS = {"all-tokens": 81}


def draw(results: Path, out: Path) -> None:
    """Draw attention, entropy (of models with many tokens) and removal of each model, and compression of ours."""
    before = set(out.glob("*.svg"))
    for path in sorted(results.glob("*.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        name, profile = path.stem, told["profile"] | {"model": path.stem}
        figures.shares(profile, out / f"{name}-attention")
        if name in _VISION_TOKENS:
            figures.entropy(profile, out / f"{name}-entropy", tokens=_VISION_TOKENS[name])
        figures.removal(told["removal"], out / f"{name}-removal", model=name)
    subject = load_subject("embedded")
    assert isinstance(subject, MiniSubject)
    for name, files in (("compression", _PICTURES), ("compression-video", ("video.mp4",))):
        frames, heats = [], []
        for file in files:
            media = load_media(_EXAMPLES / file)
            heats += read(subject, "What is in the picture?", media).as_dict()["compression"]
            frames += [frame.copy() for frame in frames_of(media)]
        figures.strip(frames[:6], heats[:6], out / name, title="Where the compression query looked: lighter, more")
    for drawing in {*out.glob("*.svg")} - before:
        drawing.unlink()


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
