"""Scenes: the same seed draws the same scene, and what is said about it is what is drawn."""

import random
from collections import Counter

import numpy as np
import pytest
from cutout_library import library as cutout_library
from PIL import Image

from llava_mini.data.backgrounds import cut_corner, draw_background
from llava_mini.data.layouts import Ground
from llava_mini.data.questions import ask_about
from llava_mini.data.scenes import CELLS, SHAPES, SIDE, DrawnScene, Scene, SceneLibrary, draw_scene
from llava_mini.data.shapes import shape_mask


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SceneLibrary:
    return cutout_library(tmp_path_factory.mktemp("cutouts"))


@pytest.fixture(scope="module")
def drawn(library: SceneLibrary) -> list[DrawnScene]:
    return [draw_scene(seed, library, "train") for seed in range(400)]


@pytest.fixture(scope="module")
def scenes(drawn: list[DrawnScene]) -> list[Scene]:
    return [scene for _, scene in drawn]


def test_a_seed_always_draws_the_same_scene(library: SceneLibrary, drawn: list[DrawnScene]) -> None:
    again = draw_scene(3, SceneLibrary(library.trained, library.unseen), "new")
    assert again.image.tobytes() == drawn[3].image.tobytes()
    assert again.scene.objects == drawn[3].scene.objects
    assert again.image.tobytes() != drawn[4].image.tobytes()


def test_pictures_are_square_rgb_and_boxes_lie_inside(drawn: list[DrawnScene]) -> None:
    for image, scene in drawn:
        assert image.size == (SIDE, SIDE)
        assert image.mode == "RGB"
        assert scene.objects
        for thing in scene.objects:
            left, top, right, bottom = thing.box
            assert 0 <= left < right <= SIDE
            assert 0 <= top < bottom <= SIDE
            assert 0 < thing.area <= (right - left) * (bottom - top)


def test_all_kinds_are_drawn_and_counts_are_balanced(scenes: list[Scene]) -> None:
    kinds = Counter(scene.kind for scene in scenes)
    assert set(kinds) == {"single", "shapes", "pair", "count", "mixed"}
    counts = Counter(len(scene.objects) for scene in scenes if scene.kind in ("count", "shapes"))
    assert set(counts) == {1, 2, 3, 4}
    assert max(counts.values()) < 2 * min(counts.values())


def test_copies_are_copies_and_objects_of_a_count_do_not_overlap(scenes: list[Scene]) -> None:
    for scene in scenes:
        if scene.kind == "count":
            assert len({(thing.name, thing.colour, thing.area) for thing in scene.objects}) == 1


def test_shapes_of_a_scene_differ_in_name_and_colour(scenes: list[Scene]) -> None:
    for scene in scenes:
        shapes = [thing for thing in scene.objects if thing.kind == "shape"]
        if scene.kind != "count":
            assert len({thing.name for thing in shapes}) == len(shapes)
            assert len({thing.colour for thing in shapes}) == len(shapes)
        assert scene.background not in {thing.colour for thing in shapes}


def test_the_things_of_a_pair_are_apart(scenes: list[Scene]) -> None:
    for scene in scenes:
        if scene.kind == "pair":
            one, other = scene.objects
            gaps = [abs(a - b) for a, b in zip(one.centre, other.centre, strict=True)]
            assert max(gaps) > 0.25
            assert one.name != other.name


def test_cells_point_at_the_object_that_covers_them(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.cell_objects.shape == (CELLS, CELLS)
        assert scene.cell_objects.dtype == np.int8
        assert scene.cell_objects.max() < len(scene.objects)
        for row, column in np.argwhere(scene.cell_objects >= 0):
            left, top, right, bottom = scene.objects[scene.cell_objects[row, column]].box
            cell = SIDE / CELLS
            assert left - cell < column * cell < right
            assert top - cell < row * cell < bottom


def test_most_objects_own_a_cell(scenes: list[Scene]) -> None:
    owned = [index in scene.cell_objects for scene in scenes for index in range(len(scene.objects))]
    assert np.mean(owned) > 0.95


def test_a_plain_ground_is_the_colour_it_is_called(drawn: list[DrawnScene]) -> None:
    plain = [image for image, scene in drawn if scene.background == "red"]
    assert plain
    for image in plain:
        red, green, blue = image.getpixel((0, 0))  # type: ignore[misc]
        assert red > 170
        assert max(green, blue) < 60


def test_unseen_scenes_show_held_out_cutouts_on_corners_of_photographs(library: SceneLibrary) -> None:
    photograph = Image.new("RGB", (90, 70), (9, 9, 9))
    photograph.paste((250, 0, 250), (30, 20, 60, 50))  # its subject, in the middle
    shown = SceneLibrary(library.trained[:1], library.unseen[1:], [Ground(photograph, ("cat",))])
    for seed in range(60):
        scene = draw_scene(seed, shown, "unseen").scene
        assert library.trained[0].name not in {one.name for one in scene.objects}
        assert (scene.background, scene.behind) == (None, ("cat",))
        questions = ask_about(scene, random.Random(seed), ("cat", "bus", "pear"))
        assert not [one.text for one in questions if one.accepted == ("no",) and "cat" in one.text]
    assert cut_corner(random.Random(0), photograph, 20).size == (20, 20)
    dark = {cut_corner(random.Random(seed), photograph, 35).getpixel((0, 0)) for seed in range(20)}
    assert dark == {(9, 9, 9), (250, 0, 250)}  # the corner that is cut from, and the subject's rim


def test_a_ground_avoids_the_colours_of_the_objects() -> None:
    rng = random.Random(0)
    words = {draw_background(rng, 16, ["red", "blue"], calm=True)[1] for _ in range(200)}
    assert not words & {"red", "blue", "orange", "purple", "pink", "brown"}


def test_a_library_with_one_name_still_draws_every_kind(library: SceneLibrary) -> None:
    lonely = SceneLibrary(library.trained[:1])
    assert {draw_scene(seed, lonely, "train").scene.objects[0].kind for seed in range(40)} == {"cutout", "shape"}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_fills_a_good_part_of_its_mask(name: str) -> None:
    mask = np.asarray(shape_mask(name, 60, 0.0)) / 255
    assert 0.15 < mask.mean() < 0.8
    assert mask[0, 0] == 0
