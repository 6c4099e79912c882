"""Mentions: what a name is said to be is what the scene shows, and as much is named that is not there."""

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from cutout_library import library as cutout_library

from llava_mini.data.mentions import Mention, draw_absent, mention_one, mention_things
from llava_mini.data.names import are_kin, plural
from llava_mini.data.scenes import Scene, SceneLibrary, SceneObject, draw_scene

NAMES = ("dog", "cat", "owl", "apple", "pear", "bus", "hammer", "rose", "grapes")
CAT = SceneObject("cat", "cutout", "black", (0, 0, 130, 65), 5000)
STAR = SceneObject("star", "shape", "red", (130, 130, 260, 260), 9000)
WORDS_FOR_ONE = {"left", "right", "top", "above", "bottom", "below", "bigger", "larger", "smaller"}
CELLS = np.full((9, 9), -1, dtype=np.int8)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    library: SceneLibrary = cutout_library(tmp_path_factory.mktemp("cutouts"))
    return [draw_scene(seed, library, "train").scene for seed in range(300)]


def read(scene: Scene, times: int = 40) -> dict[str, Mention]:
    return {m.text: m for seed in range(times) for m in mention_things(scene, random.Random(seed), NAMES, 14)}


def test_a_name_is_said_to_be_there_with_its_colour_and_its_box() -> None:
    found = read(Scene((CAT, STAR), "white", CELLS, "mixed"))
    assert (found["cat"].present, found["cat"].colour) == (True, "black")
    assert found["cat"].box == pytest.approx((0.25, 0.125, 0.5, 0.25))
    assert (found["red"].present, found["red"].name) == (True, "star")
    assert found["background"].colour == "white"
    assert (found["everything"].colour, found["everything"].lead) == ("white", "behind")
    assert found["things"].number == 2


def test_copies_are_counted_and_have_no_one_place() -> None:
    found = read(Scene((CAT, CAT, CAT), None, CELLS, "count"))
    assert (found["cats"].number, found["cats"].box) == (3, None)
    assert "background" not in found


def test_the_only_thing_is_what_the_picture_shows() -> None:
    found = read(Scene((CAT,), None, CELLS, "single"))
    assert {found[word].name for word in ("picture", "this", "object")} == {"cat"}


def test_what_is_not_there_is_no_kin_of_what_is_and_half_of_all(scenes: list[Scene]) -> None:
    there = Counter[bool]()
    for number, scene in enumerate(scenes):
        shown = {thing.name for thing in scene.objects}
        colours = {thing.colour for thing in scene.objects}
        for mention in mention_things(scene, random.Random(number), NAMES, 14):
            if mention.present is not None:
                there[mention.present] += 1
            if mention.present is False:
                assert mention.text not in colours
                assert not any(are_kin(mention.text, name) for name in shown)
            elif mention.present:
                assert mention.text in {*shown, *map(plural, shown), *colours}
    assert 0.4 < there[False] / sum(there.values()) < 0.6


def test_what_may_be_seen_behind_by_any_name_is_not_absent() -> None:
    scene = Scene((CAT,), None, CELLS, "single", behind=("couch", "hare"))
    assert scene.shown == {"cat", "sofa", "rabbit"}
    rows = [mention_things(scene, random.Random(seed), ("sofa", "rabbit", "bus"), 14) for seed in range(40)]
    assert {mention.text for row in rows for mention in row if mention.present is False} == {"bus"}


def test_the_second_of_a_pair_is_compared_with_the_first() -> None:
    pair = Scene((CAT, STAR), "white", CELLS, "mixed")  # the cat is at the top left, the star at the bottom right
    found = [
        (first.text, second.text, second.side, second.height, second.size)
        for seed in range(40)
        for first, second in pairwise(mention_things(pair, random.Random(seed), NAMES, 14, pairs=1))
        if second.side
    ]
    assert set(found) == {("cat", "star", "east", "below", "bigger"), ("star", "cat", "west", "above", "smaller")}
    alike = Scene((CAT, replace(CAT, name="dog")), "white", CELLS, "pair")
    for mention in mention_things(alike, random.Random(0), NAMES, 14, pairs=2):
        assert (mention.side, mention.height, mention.size) == (None, None, None)
    copies = Scene((CAT, CAT), "white", CELLS, "count")
    assert not any(mention.side for mention in mention_things(copies, random.Random(0), NAMES, 14, pairs=2))


def told(scene: Scene) -> set[tuple[str, str]]:
    return {
        (mention.text, mention.name or "")
        for seed in range(200)
        for mention in mention_things(scene, random.Random(seed), NAMES, 14, pairs=3)
        if mention.text in WORDS_FOR_ONE
    }


def test_words_that_are_true_of_one_of_two_things_name_it() -> None:
    cat, star = {"left", "top", "smaller"}, {"right", "bottom", "bigger", "larger"}
    assert told(Scene((CAT, STAR), "white", CELLS, "mixed")) == {
        *((word, "cat") for word in cat),
        *((word, "star") for word in star),
    }
    for pairs, words in ((1, 2), (2, 4), (9, 6)):
        found = mention_things(Scene((CAT, STAR), "white", CELLS, "mixed"), random.Random(0), NAMES, 14, pairs=pairs)
        assert sum(mention.text in WORDS_FOR_ONE for mention in found) == words
    alike = Scene((CAT, replace(STAR, box=(130, 0, 260, 65), area=5000)), None, CELLS, "mixed")
    assert told(alike) == {("left", "cat"), ("right", "star")}
    assert not told(Scene((CAT, CAT), None, CELLS, "count"))
    third = replace(CAT, name="dog", box=(200, 0, 260, 60), area=900)
    assert not told(Scene((CAT, STAR, third), None, CELLS, "mixed"))  # of which two would it be asked?
    for mention in mention_things(Scene((CAT, STAR), None, CELLS, "mixed"), random.Random(0), NAMES, 14):
        assert mention.text not in WORDS_FOR_ONE  # without pairs


def claims(scene: Scene) -> set[tuple[str, bool]]:
    """Return what is claimed, and whether it holds."""
    found = set()
    for seed in range(200):
        row = mention_things(scene, random.Random(seed), NAMES, 14, claims=4)
        places = [place for place, mention in enumerate(row) if mention.holds is not None]
        assert len(places) <= 4
        for place in places:
            one, claimed, other = row[place - 1 : place + 2]
            assert (one.joined, claimed.joined, other.joined) == (False, True, True)
            found.add((" ".join(f"{m.lead} {m.text}".strip() for m in (one, claimed, other)), bool(claimed.holds)))
    return found


def test_a_claim_holds_or_its_opposite_does() -> None:
    pair = Scene((CAT, STAR), "white", CELLS, "mixed")  # the cat is at the top left, the star at the bottom right
    true = {
        "the cat to the left of the star", "the cat above the star",
        "the star to the right of the cat", "the star below the cat",
    }  # fmt: skip
    false = {
        "the cat to the right of the star", "the cat below the star",
        "the star to the left of the cat", "the star above the cat",
    }  # fmt: skip
    assert claims(pair) == {*((claim, True) for claim in true), *((claim, False) for claim in false)}
    for most, count in ((0, 0), (3, 3), (9, 8)):
        found = mention_things(pair, random.Random(0), NAMES, 14, claims=most)
        assert sum(mention.holds is not None for mention in found) == count
    (second,) = {
        (mention.text, mention.side, mention.height)
        for seed in range(20)
        for mention in mention_things(pair, random.Random(seed), NAMES, 14, claims=8)
        if mention.lead.startswith(("of the", "the")) and mention.joined and mention.text == "star"
    }
    assert second == ("star", "east", "below")
    assert not claims(Scene((CAT, CAT), None, CELLS, "count"))


def test_of_three_things_a_claim_holds_beside_both_others_or_beside_none() -> None:
    dog = replace(CAT, name="dog", box=(65, 0, 195, 65))  # between the others, as high as the cat
    found = claims(Scene((CAT, STAR, dog), None, CELLS, "mixed"))
    assert {claim for claim, holds in found if holds} == {
        *(f"the cat to the left of the {other}" for other in ("dog", "star")),
        *(f"the star to the right of the {other}" for other in ("cat", "dog")),
        *(f"the star below the {other}" for other in ("cat", "dog")),
    }
    assert not any(claim.startswith("the dog") for claim, _ in found)
    assert len(found) == 12


def test_a_fruit_is_not_said_to_be_absent_beside_its_colour() -> None:
    scene = Scene((replace(STAR, colour="orange"),), "white", CELLS, "shapes")
    for seed in range(40):
        said = {(m.text, m.present) for m in mention_things(scene, random.Random(seed), ("orange", "dog"), 14)}
        assert ("orange", False) not in said


def test_a_thing_clearly_at_a_side_has_a_place() -> None:
    left = SceneObject("cat", "cutout", None, (0, 90, 80, 170), 5000)
    assert read(Scene((left,), None, CELLS, "single"))["cat"].place == "left"
    assert read(Scene((CAT, STAR), None, CELLS, "mixed"))["cat"].place is None  # it is in a corner
    assert read(Scene((left, left), None, CELLS, "count"))["cats"].place is None


def test_a_picture_of_which_one_thing_is_known_is_asked_for_no_more() -> None:
    mentions = mention_one("dog", random.Random(0), ["bus"])
    assert Counter(mention.present for mention in mentions) == {True: 1, False: 1, None: 1}
    assert [mention.name for mention in mentions if mention.name] == ["dog"]
    assert all(mention.box is None and mention.number is None for mention in mentions)


def test_absent_names_are_drawn_as_often_as_their_chances_say() -> None:
    chances = dict.fromkeys(NAMES, 1.0) | {"dog": 4.0}
    drawn = Counter(
        name for seed in range(2000) for name in draw_absent(chances, random.Random(seed), ["rose"], count=1)
    )
    assert set(drawn) == set(NAMES) - {"rose"}
    assert drawn["dog"] / sum(drawn.values()) == pytest.approx(4 / 11, abs=0.04)


def test_what_is_there_by_any_name_and_its_kin_are_never_absent() -> None:
    chances = dict.fromkeys(("rabbit", "hare", "owl", "bird", "bus"), 1.0)
    for seed in range(40):
        assert draw_absent(chances, random.Random(seed), ["rabbit", "owl"], count=3) == ["bus"]  # a hare is a rabbit
