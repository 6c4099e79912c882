"""The warm-up before stage 1: every patch learns the words of what covers it, before any transformer runs.

Ours, not the paper's; named "patch alignment" in docs/training.md and switched by leaving the stage out.
B pictures · N² patches · V words · d width.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from llava_mini.data.prepared import PreparedScene
from llava_mini.data.scenes import Scene
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration

_FADED, _PHOTOGRAPH_STRENGTH, _OTHER_STRENGTH, _OTHER_CLASSES = 0.6, 16.0, 6.0, 6
ACROSS, DOWN = ("left", "middle", "right"), ("top", "middle", "bottom")


@dataclass(frozen=True)
class WordTable:
    """The words that patches are aligned with, as the language model embeds them."""

    words: tuple[str, ...]
    embeddings: Tensor
    """`(V, d)`, each of length 1."""

    def index(self, word: str | None) -> int:
        """Return the row of a word, −100 for none or an unknown one."""
        return self._places.get(word or "", -100)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}


def embed_words(words: list[str], embeddings: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return the mean embedding of each word's tokens, as they stand in a sentence: `(V, d)`."""
    rows = [embeddings[tokenizer(f" {word}", add_special_tokens=False)["input_ids"]].mean(dim=0) for word in words]
    return torch.stack(rows).detach()


class PatchAlignment(nn.Module):
    """Cross-entropy of patches and compressed tokens against names and colours.

    loss = CE(patch, name) + CE(patch, colour) + w_token · CE(token, name of the largest object)
         + w_place · (CE(patch, left | middle | right) + CE(patch, top | middle | bottom))
         + w_box · |probe(patch) − box of its object as seen from the patch|.
    The probe is thrown away: what it reads, a patch has learned to say.
    """

    def __init__(
        self,
        model: LlavaMiniForConditionalGeneration,
        table: WordTable,
        *,
        token_weight: float = 0.3,
        place_weight: float = 0.3,
        box_weight: float = 5.0,
    ) -> None:
        super().__init__()
        self.model = model.model
        self.words = nn.Buffer(table.embeddings, persistent=False)
        self.sharpness = nn.Parameter(torch.tensor(3.0))
        self.helper = nn.Linear(table.embeddings.shape[1], 4)
        self.token_weight, self.place_weight, self.box_weight = token_weight, place_weight, box_weight
        self.across, self.down = ([table.index(word) for word in words] for words in (ACROSS, DOWN))

    def forward(
        self, vision_features: Tensor, names: Tensor, colours: Tensor, main: Tensor, boxes: Tensor
    ) -> dict[str, Tensor]:
        """Return the loss.

        Args:
            vision_features: `(B, N², d_v)`.
            names: `(B, N²)`, row of the word table, −100 where nothing is named.
            colours: `(B, N²)`, likewise.
            main: `(B,)`, the largest object's name.
            boxes: `(B, N², 4)`, from the patch to the centre of its object, and the object's size, as shares of the
                side; not a number where nothing is.
        """
        projected = self.model._project(vision_features[:, None])
        tokens = self.model._compress(vision_features[:, None], projected)
        patches = self._scores(projected.flatten(0, 2))
        loss = _cross_entropy(patches, names.flatten()) + _cross_entropy(patches, colours.flatten())
        if self.model.compressor is not None:
            loss = loss + self.token_weight * _cross_entropy(self._scores(tokens.mean(dim=1)), main)
        rows, columns = (third.to(names.device).repeat(len(names)) for third in _thirds(names.shape[1]))
        loss = loss + self.place_weight * _cross_entropy(patches[:, self.across], columns)
        loss = loss + self.place_weight * _cross_entropy(patches[:, self.down], rows)
        placed = boxes.isfinite().all(dim=-1)
        if bool(placed.any()):
            loss = loss + self.box_weight * (self.helper(projected[:, 0][placed]) - boxes[placed]).abs().mean()
        return {"loss": loss}

    def _scores(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) @ self.words.T * self.sharpness.exp()


def _thirds(patches: int) -> tuple[Tensor, Tensor]:
    """Return in which third of the rows, and of the columns, each patch of a square grid is: `(N²,)` of 0, 1, 2."""
    side = math.isqrt(patches)
    third = torch.arange(side) * 3 // side
    return third.repeat_interleave(side), third.repeat(side)


def third_of(share: float) -> int:
    """Return in which third of the picture's side a point is: 0, 1 or 2."""
    return min(2, int(3 * share))


def alignment_targets(scenes: list[PreparedScene], table: WordTable) -> dict[str, Tensor]:
    """Return the targets of `PatchAlignment` for a batch of scenes."""
    names, colours, main, boxes = [], [], [], []
    for scene in (one.known for one in scenes):
        cells = torch.from_numpy(scene.cell_objects).flatten().long()
        name_rows = torch.tensor([*(table.index(thing.name) for thing in scene.objects), -100])
        colour_rows = [*(table.index(thing.colour) for thing in scene.objects), table.index(scene.background)]
        names.append(name_rows[cells])  # cell −1 takes the last entry: the background
        colours.append(torch.tensor(colour_rows)[cells])
        covered = torch.bincount(cells[cells >= 0], minlength=len(scene.objects))
        main.append(name_rows[int(covered.argmax())])
        boxes.append(_seen_from_cells(scene, cells))
    return {
        "vision_features": torch.cat([scene.features[:, -1] for scene in scenes]),
        "names": torch.stack(names),
        "colours": torch.stack(colours),
        "main": torch.stack(main),
        "boxes": torch.stack(boxes),
    }


def _seen_from_cells(scene: Scene, cells: Tensor) -> Tensor:
    """Return the way from each cell to the centre of its object, and the object's size: `(N², 4)`."""
    side = math.isqrt(len(cells))
    middles = (torch.arange(side) + 0.5) / side
    here = torch.stack([middles.repeat(side), middles.repeat_interleave(side)], dim=1)
    nothing = (math.nan,) * 4
    boxes = torch.tensor([*((*thing.centre, *thing.size) for thing in scene.objects), nothing])[cells]
    boxes[:, :2] -= here
    return boxes


def imagine_classes(
    features: Tensor, classifier: nn.Linear, classes: Tensor, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Plant ImageNet classes into the features of other scenes: photographs are not to be had, their classes are.

    A random rectangle of cells, never smaller than a third of the side, is moved along the unit weight of the class.

    Args:
        features: `(B, N², d_v)`.
        classes: `(B,)`, one class a picture.

    Returns:
        The features, and which cells were moved: `(B, N²)`.
    """
    side = int(features.shape[1] ** 0.5)
    made = features.clone().unflatten(1, (side, side))
    moved = torch.zeros(made.shape[:3], dtype=torch.bool)
    directions = F.normalize(classifier.weight[classes], dim=-1)
    for row, direction in enumerate(directions):
        height, width = (int(torch.randint(side // 3, side + 1, (), generator=generator)) for _ in range(2))
        top, left = (int(torch.randint(0, side - n + 1, (), generator=generator)) for n in (height, width))
        strength = 3 + 6 * torch.rand((), generator=generator)
        region = made[row, top : top + height, left : left + width, : classifier.in_features]
        made[row, top : top + height, left : left + width, : classifier.in_features] = (
            region + strength * direction
        ).clamp(0, 6)
        moved[row, top : top + height, left : left + width] = True
    return made.flatten(1, 2), moved.flatten(1)


def imagine_photographs(
    features: Tensor, classifier: nn.Linear, classes: Tensor, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Plant ImageNet classes as photographs show them: no patch is sure of its class, the mean of all is.

    The scene fades, a large rectangle of cells is moved along the class by a strength of its own each, and every cell
    along one of a few other classes. Of photographs that the tower names rightly a third of the cells do; of these
    0.4, and the mean of four in five (docs/lab_book.md).

    Args:
        features: `(B, N², d_v)`.
        classes: `(B,)`, one class a picture.

    Returns:
        The features, and which cells were moved along their picture's class: `(B, N²)`.
    """
    count, cells, _ = features.shape
    side, channels = int(cells**0.5), classifier.in_features
    directions = F.normalize(classifier.weight, dim=-1)

    def chance(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    others = torch.randint(0, len(directions), (count, _OTHER_CLASSES), generator=generator)
    others = others.gather(1, torch.randint(0, _OTHER_CLASSES, (count, cells), generator=generator))
    strength = _PHOTOGRAPH_STRENGTH * chance(count, side, side)
    for row in strength:
        for line in (row, row.T):
            length = int(torch.randint(round(0.6 * side), side + 1, (), generator=generator))
            first = int(torch.randint(0, side - length + 1, (), generator=generator))
            line[:first] = line[first + length :] = 0
    own = strength.flatten(1)[..., None] * directions[classes][:, None]
    rest = _OTHER_STRENGTH * chance(count, cells, 1) * directions[others]
    made = features.clone()
    made[..., :channels] = (_FADED * made[..., :channels] + own + rest).clamp(0, 6)
    return made, strength.flatten(1) > 0


def _cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    if not bool((targets >= 0).any()):
        return scores.sum() * 0
    return F.cross_entropy(scores, targets)
