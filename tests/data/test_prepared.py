"""Prepared scenes: as many as were asked for, made with one thing only, and what is there already stays."""

from functools import partial
from pathlib import Path
from typing import Any, Never

import numpy as np
import pytest
import torch
from cutout_library import library
from PIL import Image
from typer.testing import CliRunner

from llava_mini.cli import app
from llava_mini.data import prepared
from llava_mini.data.cutouts import CUTOUT_SOURCES
from llava_mini.data.layouts import Ground
from llava_mini.data.panoramas import PANORAMA_SOURCE
from llava_mini.data.prepared import Extras, PreparedScenes, prepare_scenes, prepare_videos
from llava_mini.data.sources import SOURCES
from llava_mini.errors import DataError


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of four, of made cut-outs."""
    cutouts = library(tmp_path)
    monkeypatch.setattr(prepared, "SHARD", 4)
    monkeypatch.setattr(prepared, "load_cutouts", lambda *_: cutouts.trained)
    monkeypatch.setattr(prepared, "load_glyphs", lambda _: [])
    monkeypatch.setattr(prepared, "load_panoramas", lambda _: [Ground(Image.linear_gradient("L").convert("RGB"), ())])


class Tower:
    """A tower that tells mean colours, and counts what it sees."""

    def __init__(self, parts: int = 1) -> None:
        self.parts, self.seen = parts, 0

    def __call__(self, pictures: Any) -> torch.Tensor:
        self.seen += len(pictures)
        means = [np.asarray(picture).mean(axis=(0, 1)) for picture in pictures]
        return torch.tensor(np.array(means))[:, None, None].expand(-1, self.parts, 2, -1)


def made(folder: Path, count: int, *, tiles: int = 1, sources: Path = Path()) -> tuple[int, int]:
    """Prepare scenes; return how many the folder holds, and how many were drawn for it."""
    tower = Tower(1 if tiles == 1 else tiles**2 + 1)
    return prepare_scenes(folder, sources, count=count, tiles=tiles, encode=tower), tower.seen


def test_more_scenes_are_the_same_as_if_all_had_been_asked_for_at_once(tmp_path: Path) -> None:
    assert made(tmp_path / "grown", 2) == (2, 2)
    assert made(tmp_path / "grown", 9) == (9, 9)  # the short shard is drawn again
    assert made(tmp_path / "grown", 10) == (10, 2)  # whole shards are left alone
    made(tmp_path / "whole", 10)
    grown, whole = PreparedScenes(tmp_path / "grown"), PreparedScenes(tmp_path / "whole")
    assert len(grown) == len(whole) == 10
    for one, other in zip(grown, whole, strict=True):  # type: ignore[call-overload]
        assert torch.equal(one.features, other.features)
        assert one.known.objects == other.known.objects
    assert {path.suffix for path in (tmp_path / "grown").iterdir()} == {".json", ".npy"}


def test_scenes_that_show_nothing_but_shapes_are_told_from_the_others(tmp_path: Path) -> None:
    made(tmp_path / "scenes", 40)
    scenes = PreparedScenes(tmp_path / "scenes")
    chosen = {index for index, scene in scenes.known() if scene.only_shapes}
    assert 0 < len(chosen) < 40
    for index in range(40):
        kinds = {thing.kind for thing in scenes[index].known.objects}
        assert (kinds == {"shape"}) == (index in chosen)
    prepare_videos(tmp_path / "videos", tmp_path, count=2, tiles=1, encode=Tower())
    assert list(PreparedScenes(tmp_path / "videos").known()) == []


def test_fewer_scenes_than_there_are_take_none_away(tmp_path: Path) -> None:
    made(tmp_path / "scenes", 10)
    assert made(tmp_path / "scenes", 3) == (10, 0)


def test_videos_are_prepared_with_all_their_frames(tmp_path: Path) -> None:
    tower = Tower()
    assert prepare_videos(tmp_path / "videos", tmp_path, count=2, tiles=1, encode=tower) == 2
    assert prepare_videos(tmp_path / "videos", tmp_path, count=5, tiles=1, encode=tower) == 5
    videos = PreparedScenes(tmp_path / "videos")
    assert all(len(videos[index].features) > 1 and videos[index].questions for index in range(5))


def test_a_folder_of_something_else_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "scenes"
    made(folder, 4)
    with pytest.raises(DataError, match=r"was made with tiles 1, not 2; choose another folder with --out, or delete"):
        made(folder, 4, tiles=2)
    with pytest.raises(DataError, match=r"was made with kind scenes, not videos"):
        prepare_videos(folder, tmp_path, count=4, tiles=1, encode=Tower())
    source = next(source for source in SOURCES if source.name == CUTOUT_SOURCES[0])
    (tmp_path / source.folder).mkdir()
    (tmp_path / source.folder / "fetched-version").write_text("99\n")
    with pytest.raises(DataError, match=rf"was made with {source.name} {source.version}, not 99"):
        made(folder, 4, sources=tmp_path)
    monkeypatch.setattr(prepared, "_DRAWING", 0)
    with pytest.raises(DataError, match=r"was made with drawing 2, not 0"):
        made(folder, 4)


def test_scenes_of_the_first_way_to_draw_are_known_by_what_they_lack(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    made(folder, 8)
    (folder / "prepared.json").unlink()
    with pytest.raises(DataError, match="was made with drawing 1, not 2"):
        made(folder, 8)


def test_a_folder_that_holds_more_than_was_asked_for_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava_mini.cli.data._tower", lambda sources, tiles: Tower())
    arguments = ["data", "scenes", "--out", str(tmp_path / "scenes"), "--count"]
    assert CliRunner().invoke(app, [*arguments, "6"]).exit_code == 0
    ran = CliRunner().invoke(app, [*arguments, "3"])
    assert "holds 6 scenes, not 3; all are kept and learned from" in ran.stderr
    assert ran.stdout.strip() == str(tmp_path / "scenes")


@pytest.mark.parametrize("what", ["scenes", "videos"])
@pytest.mark.parametrize("extra", ["glyphs", "panoramas"])
def test_what_is_left_out_need_not_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, extra: str
) -> None:
    def missing(sources: Path) -> Never:
        raise DataError(f"no {extra}")

    monkeypatch.setattr("llava_mini.cli.data._tower", lambda sources, tiles: Tower())
    monkeypatch.setattr(prepared, f"load_{extra}", missing)
    arguments = ["data", what, "--count", "4", "--out", str(tmp_path / "out")]
    assert str(CliRunner().invoke(app, arguments).exception) == f"no {extra}"
    assert CliRunner().invoke(app, [*arguments, f"--no-{extra}"]).exit_code == 0
    assert len(PreparedScenes(tmp_path / "out")) == 4


def test_scenes_without_panoramas_are_others_and_are_not_mixed_with_them(tmp_path: Path) -> None:
    made(tmp_path / "whole", 8)
    bare = partial(prepare_scenes, sources=tmp_path, count=8, tiles=1, encode=Tower(), extras=Extras(panoramas=False))
    bare(tmp_path / "bare")
    folders = [PreparedScenes(tmp_path / name) for name in ("bare", "whole")]
    plain = [sum(scenes[index].known.background is not None for index in range(8)) for scenes in folders]
    assert plain[0] > plain[1]
    with pytest.raises(DataError, match=rf"was made with {PANORAMA_SOURCE} \S+, not left out; choose another folder"):
        bare(tmp_path / "whole")
