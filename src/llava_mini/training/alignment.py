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

from llava_mini.data.answers import NUMBERS
from llava_mini.data.prepared import PreparedScene
from llava_mini.data.scenes import Scene
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration

_FADED, _PHOTOGRAPH_STRENGTH, _OTHER_STRENGTH, _OTHER_CLASSES = 0.6, 16.0, 6.0, 6
_MOST = 4
"""Things of a scene that are counted, at most."""
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
         + w_box · |probe(patch) − box of its object as seen from the patch|;
    unless the context of patches learns alone (model/patch_context.py). Where it learns:
    loss = BCE(probe(heard), is the centre of a thing here?) + w_number · CE(heard, one | two | three | four things)
         + w_loud · |heard − patch|² / |patch|².
    Centres as what is asked of a cell: CenterNet (Zhou et al., arXiv 1904.07850).
    The probes are thrown away: what they read, a patch has learned to say.
    """

    def __init__(
        self,
        model: LlavaMiniForConditionalGeneration,
        table: WordTable,
        *,
        token_weight: float = 0.3,
        place_weight: float = 0.3,
        box_weight: float = 5.0,
        number_weight: float = 0.1,
        loud_weight: float = 1e-3,
    ) -> None:
        super().__init__()
        self.model = model.model
        self.words = nn.Buffer(table.embeddings, persistent=False)
        self.sharpness = nn.Parameter(torch.tensor(3.0))
        self.helper = nn.Linear(table.embeddings.shape[1], 4)
        self.centre_helper = nn.Linear(table.embeddings.shape[1], 1) if self.model.patch_context is not None else None
        self.token_weight, self.place_weight, self.box_weight = token_weight, place_weight, box_weight
        self.number_weight, self.loud_weight = number_weight, loud_weight
        self.across, self.down, self.numbers = (
            [table.index(word) for word in words] for words in (ACROSS, DOWN, NUMBERS[1 : _MOST + 1])
        )

    def forward(
        self,
        vision_features: Tensor,
        *,
        names: Tensor,
        colours: Tensor,
        main: Tensor,
        boxes: Tensor,
        centres: Tensor,
        number: Tensor,
    ) -> dict[str, Tensor]:
        """Return the loss.

        Args:
            vision_features: `(B, N², d_v)`.
            names: `(B, N²)`, row of the word table, −100 where nothing is named.
            colours: `(B, N²)`, likewise.
            main: `(B,)`, the largest object's name.
            boxes: `(B, N², 4)`, from the patch to the centre of its object, and the object's size, as shares of the
                side; not a number where nothing is.
            centres: `(B, N²)`, 1 where the centre of a thing lies, else 0; not a number where that is not known.
            number: `(B,)`, how many things there are, −100 where that is not known.
        """
        projected = self.model._project(vision_features[:, None])
        hears = _learns(self.model.patch_context)
        loss = projected.new_zeros(())
        if _learns(self.model.multi_modal_projector) or _learns(self.model.compressor) or not hears:
            loss = loss + self._said(vision_features, projected, names, colours, main, boxes)
        if hears:
            loss = loss + self._heard(projected[:, 0].detach(), centres, number)
        return {"loss": loss}

    def _said(
        self, features: Tensor, projected: Tensor, names: Tensor, colours: Tensor, main: Tensor, boxes: Tensor
    ) -> Tensor:
        """Ask patches and tokens for words and boxes."""
        tokens = self.model._compress(features[:, None], projected)
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
        return loss

    def _heard(self, patches: Tensor, centres: Tensor, number: Tensor) -> Tensor:
        """Ask what is heard for the centres of things and their number; the projector is asked for neither."""
        assert self.model.patch_context is not None
        assert self.centre_helper is not None
        heard = self.model.patch_context(patches[:, None])[:, 0]
        loud = (heard - patches).pow(2).mean(dim=-1) / patches.pow(2).mean(dim=-1)
        scores = self._scores(heard)[..., self.numbers].flatten(0, 1)
        counted = torch.where(number > 0, number - 1, -100).repeat_interleave(heard.shape[1])
        loss = self.loud_weight * loud.mean()  # else it drowns the patch
        loss = loss + self.number_weight * _cross_entropy(scores, counted)
        known = centres.isfinite()
        if bool(known.any()):
            said = self.centre_helper(heard[known])[:, 0]
            loss = loss + F.binary_cross_entropy_with_logits(said, centres[known])
        return loss

    def _scores(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) @ self.words.T * self.sharpness.exp()


def _learns(module: nn.Module | None) -> bool:
    return module is not None and any(parameter.requires_grad for parameter in module.parameters())


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
    names, colours, main, boxes, centres, number = [], [], [], [], [], []
    for scene in (one.known for one in scenes):
        cells = torch.from_numpy(scene.cell_objects).flatten().long()
        name_rows = torch.tensor([*(table.index(thing.name) for thing in scene.objects), -100])
        colour_rows = [*(table.index(thing.colour) for thing in scene.objects), table.index(scene.background)]
        names.append(name_rows[cells])  # cell −1 takes the last entry: the background
        colours.append(torch.tensor(colour_rows)[cells])
        covered = torch.bincount(cells[cells >= 0], minlength=len(scene.objects))
        main.append(name_rows[int(covered.argmax())])
        boxes.append(_seen_from_cells(scene, cells))
        centres.append(_centres(scene, len(cells)))
        number.append(len(scene.objects) if 1 <= len(scene.objects) <= _MOST else -100)
    return {
        "vision_features": torch.cat([scene.features[:, -1] for scene in scenes]),
        "names": torch.stack(names),
        "colours": torch.stack(colours),
        "main": torch.stack(main),
        "boxes": torch.stack(boxes),
        "centres": torch.stack(centres),
        "number": torch.tensor(number),
    }


def _centres(scene: Scene, patches: int) -> Tensor:
    """Return 1 in the cell that holds the centre of a thing, else 0: `(N²,)`."""
    side, found = math.isqrt(patches), torch.zeros(patches)
    for across, down in (thing.centre for thing in scene.objects):
        found[min(int(down * side), side - 1) * side + min(int(across * side), side - 1)] = 1
    return found


def _seen_from_cells(scene: Scene, cells: Tensor) -> Tensor:
    """Return the way from each cell to the centre of its object, and the object's size: `(N², 4)`."""
    side = math.isqrt(len(cells))
    centres = (torch.arange(side) + 0.5) / side
    here = torch.stack([centres.repeat(side), centres.repeat_interleave(side)], dim=1)
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
