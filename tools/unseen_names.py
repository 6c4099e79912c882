"""How well the tower alone knows a drawing it never saw, by how many other drawings of that name it was shown.

Each drawing stands alone on grey; a ridge regression from the tower's features names it, out of all names. Of every
name with enough series of drawings ("dog_01" and "dog_02" are one; so are the emoji of one artist) one is asked about,
and the given number of others shown. That is an easier task than a scene's.

    python tools/unseen_names.py data/sources
"""

import random
import sys
from collections import Counter, defaultdict
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from llava_mini.checkpoints.embedded import assemble
from llava_mini.data.cutouts import Cutout, load_cutouts, load_glyphs, series_of

SIDE, LARGEST = 260, 170
SHOWN = (1, 2, 3, 4)
SEEDS = 20
RIDGE = 0.05


def alone(cutout: Cutout) -> Image.Image:
    """Put a drawing into the middle of a grey square."""
    picture, ground = cutout.image, Image.new("RGB", (SIDE, SIDE), "lightgrey")
    picture.thumbnail((LARGEST, LARGEST))
    ground.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2), picture)
    return ground


@torch.no_grad()
def features_of(cutouts: list[Cutout]) -> Tensor:
    """Return the tower's features in the middle 5×5 of 9×9 cells, `(n, d_v)` on average."""
    model, processor = assemble(None)
    rows = []
    for start in range(0, len(cutouts), 32):
        frames = processor.prepare_frames([alone(one) for one in cutouts[start : start + 32]])
        cells = model.model.get_vision_features(frames[:, None]).flatten(0, 2).unflatten(1, (9, 9))
        rows.append(cells[:, 2:7, 2:7].mean((1, 2)))
    return torch.cat(rows).double()


def name_by_ridge(features: Tensor, labels: Tensor, shown: list[int], asked: list[int]) -> Tensor:
    """Name what is asked by a ridge regression on what is shown, both rows of `features`: labels, `(asked,)`."""
    mean, spread = features[shown].mean(0), features[shown].std(0) + 1e-3
    known, new = (F.normalize((features[rows] - mean) / spread, dim=1) for rows in (shown, asked))
    targets = F.one_hot(labels[shown], int(labels.max()) + 1).double()
    alike = known @ known.T + RIDGE * torch.eye(len(shown), dtype=torch.double)
    return (new @ known.T @ torch.linalg.solve(alike, targets)).argmax(1)


def main(sources: Path) -> None:
    """Print the curve, and what is right of the benchmark's unseen cut-outs."""
    trained, unseen = [*load_cutouts(sources, "train"), *load_glyphs(sources)], load_cutouts(sources, "unseen")
    cutouts = [*trained, *unseen]
    features = features_of(cutouts)
    names = sorted({one.name for one in cutouts})
    labels = torch.tensor([names.index(one.name) for one in cutouts])
    by_name: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, one in enumerate(cutouts):
        by_name[one.name][_hand(one)].append(index)
    enough = [name for name, series in by_name.items() if len(series) > max(SHOWN)]
    print(f"| other drawings shown | right of {len(enough)} names, percent, mean of {SEEDS} draws | least, most |")
    print("|---|---|---|")
    for count in SHOWN:
        right = []
        for seed in range(SEEDS):
            draw = random.Random(seed)
            shown, asked = [], []
            for name, series in by_name.items():
                one_each = [draw.choice(same) for same in draw.sample(list(series.values()), len(series))]
                if name in enough:
                    asked.append(one_each.pop())
                shown += one_each[:count]
            right.append(100 * (name_by_ridge(features, labels, shown, asked) == labels[asked]).double().mean().item())
        print(f"| {count} | {sum(right) / SEEDS:.0f} | {min(right):.0f}, {max(right):.0f} |")
    shown, asked = list(range(len(trained))), list(range(len(trained), len(cutouts)))
    named = name_by_ridge(features, labels, shown, asked) == labels[asked]
    half = len(asked) // 2  # neighbours share names
    shuffled = name_by_ridge(features, labels, shown, asked[half:] + asked[:half]) == labels[asked]
    told = f"{int(named.sum())} of {len(asked)}, with another's picture {int(shuffled.sum())}"
    print(f"unseen cut-outs, all {len(trained)} trained ones shown: {told}")
    hands = Counter(name for name, _ in {(one.name, _hand(one)) for one in trained})
    print(f"of {len(names)} names {sum(count <= 2 for count in hands.values())} are trained on one drawing or two")


def _hand(cutout: Cutout) -> str:
    """Return the series of a drawing: what one hand drew."""
    return series_of(cutout) if cutout.source == "clipart" else cutout.source


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
