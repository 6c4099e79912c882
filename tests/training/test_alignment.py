"""Patches learn the words of what covers them, and where they are."""

import numpy as np
import torch
from tiny import EMBEDDED, tiny_model
from torch.nn import functional as F

from llava_mini.data.prepared import PreparedScene
from llava_mini.data.scenes import Scene, SceneObject
from llava_mini.training.alignment import (
    ACROSS,
    DOWN,
    PatchAlignment,
    WordTable,
    alignment_targets,
    imagine_classes,
    imagine_photographs,
)

NO_BOXES, NO_CENTRES, NO_NUMBER = torch.full((1, 9, 4), torch.nan), torch.full((1, 9), torch.nan), torch.tensor([-100])
WORDS = ("cat", "red", *ACROSS, "top", "bottom", "one", "two", "three", "four")


def objective_table() -> WordTable:
    generator = torch.Generator().manual_seed(0)
    return WordTable(WORDS, F.normalize(torch.randn(len(WORDS), 32, generator=generator), dim=-1))


def objective(**changes: int) -> PatchAlignment:
    return PatchAlignment(tiny_model(**EMBEDDED | changes), objective_table())


def targets(**known: torch.Tensor) -> dict[str, torch.Tensor]:
    """Nothing is known of nine cells but what is given."""
    nothing = torch.full((1, 9), -100)
    unknown = {"names": nothing, "colours": nothing, "main": nothing[:, 0], "boxes": NO_BOXES}
    return {**unknown, "centres": NO_CENTRES, "number": NO_NUMBER, **known}


def test_an_unlabelled_picture_still_teaches_its_cells_where_they_are() -> None:
    aligned = objective(fusion_context=0)
    features = torch.randn(1, 9, 48)
    losses = aligned(features, **targets())
    scores = aligned._scores(aligned.model._project(features[:, None]).flatten(0, 2))
    third = torch.arange(3)
    across = F.cross_entropy(scores[:, [WORDS.index(word) for word in ACROSS]], third.repeat(3))
    down = F.cross_entropy(scores[:, [WORDS.index(word) for word in DOWN]], third.repeat_interleave(3))
    torch.testing.assert_close(losses["loss"], aligned.place_weight * (across + down))


def test_a_named_cell_costs_the_cross_entropy_of_its_name_and_colour() -> None:
    aligned = objective()
    names, colours = torch.full((1, 9), -100), torch.full((1, 9), -100)
    names[0, 4], colours[0, 2] = WORDS.index("cat"), WORDS.index("red")
    features = torch.randn(1, 9, 48)
    named, unnamed = (aligned(features, **of)["loss"] for of in (targets(names=names, colours=colours), targets()))
    scores = aligned._scores(aligned.model._project(features[:, None])[0, 0]).log_softmax(dim=-1)
    torch.testing.assert_close(named - unnamed, -scores[4, 0] - scores[2, 1])


def test_a_patch_is_asked_for_the_way_to_its_object_and_for_its_size() -> None:
    cells = np.full((3, 3), -1, dtype=np.int8)
    cells[1, 2] = 0
    cat = SceneObject("cat", "cutout", "red", (130, 65, 260, 195), 9000)
    scene = PreparedScene(0, torch.randn(1, 1, 9, 48), Scene((cat,), None, cells, "single"))
    boxes = alignment_targets([scene], objective_table())["boxes"][0]
    assert boxes.isfinite().all(dim=-1).tolist() == [False] * 5 + [True] + [False] * 3
    torch.testing.assert_close(boxes[5], torch.tensor([0.75 - 2.5 / 3, 0.0, 0.5, 0.5]))


def test_what_is_heard_tells_the_centre_of_each_thing_and_how_many_there_are() -> None:
    cells = np.full((3, 3), -1, dtype=np.int8)
    boxes = ((130, 65, 260, 195), (0, 0, 80, 80), (180, 180, 260, 260))
    things = tuple(SceneObject("cat", "cutout", "red", box, 9000) for box in boxes)
    scene = PreparedScene(0, torch.randn(1, 1, 9, 48), Scene(things, None, cells, "count"))
    known = alignment_targets([scene], objective_table())
    assert known["centres"][0].nonzero().flatten().tolist() == [0, 5, 8]
    assert known["number"].tolist() == [3]
    aligned = objective()
    context, projector = aligned.model.patch_context, aligned.model.multi_modal_projector
    assert context is not None
    features = scene.features[0]

    def loss(**given: torch.Tensor) -> torch.Tensor:
        whole: torch.Tensor = aligned(features, **targets(**given))["loss"]
        return whole

    patches = aligned.model._project(features[:, None])
    heard = context(patches)
    unknown = loss()
    asked, counted = loss(centres=known["centres"]) - unknown, loss(number=known["number"]) - unknown
    said = aligned.centre_helper(heard)[0, 0, :, 0]  # type: ignore[misc]
    torch.testing.assert_close(asked, F.binary_cross_entropy_with_logits(said, known["centres"][0]))
    numbers = aligned._scores(heard)[0, 0, :, -4:].log_softmax(dim=-1)
    torch.testing.assert_close(counted, -aligned.number_weight * numbers[:, 2].mean())
    (slope,) = torch.autograd.grad(asked + counted, projector.mlp.linear_2.weight)
    assert slope.abs().max() < 1e-6  # the projector is asked for neither
    loud = (heard - patches).pow(2).mean(dim=-1) / patches.pow(2).mean(dim=-1)
    context.requires_grad_(False)
    torch.testing.assert_close(unknown - loss(), aligned.loud_weight * loud.mean())
    context.requires_grad_(True)
    for part in (projector, aligned.model.compressor):
        part.requires_grad_(False)
    torch.testing.assert_close(loss(), aligned.loud_weight * loud.mean())  # nothing else is asked


def test_no_patch_of_an_imagined_photograph_need_be_sure_but_all_together_are() -> None:
    generator = torch.Generator().manual_seed(0)
    classifier = torch.nn.Linear(200, 100)
    features, classes = torch.rand(60, 81, 248, generator=generator), torch.arange(60)

    def scores_of(made: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = classifier(made[..., :200]).detach()
        return scores

    def right(imagine: object) -> tuple[float, float]:
        made, moved = imagine(features, classifier, classes, generator=generator)  # type: ignore[operator]
        assert torch.equal(made[..., 200:], features[..., 200:])  # what the classifier does not read
        assert moved.any(dim=1).all()
        own = (scores_of(made) - scores_of(features))[torch.arange(60), :, classes]
        assert own[moved].mean() > own[~moved].mean() + 1  # elsewhere another class is shown, or the scene
        assert made[..., :200].min() >= 0
        assert made[..., :200].max() <= 6
        scores = scores_of(made)
        patches = (scores.argmax(dim=-1) == classes[:, None]).float().mean()
        return float(patches), float((scores.mean(dim=1).argmax(dim=-1) == classes).float().mean())

    patches, together = right(imagine_photographs)
    assert 0.2 < patches < 0.6
    assert together > 0.85
    assert right(imagine_classes)[1] < together
    none, moved = imagine_photographs(features[:0], classifier, classes[:0], generator=generator)
    assert (len(none), len(moved)) == (0, 0)
