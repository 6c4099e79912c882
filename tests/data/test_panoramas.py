"""Panoramas: light becomes colours, a view is square in any direction, and nothing in it is called absent."""

import base64
import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from cutout_library import library as cutout_library
from PIL import Image

from llava_mini.data import panoramas
from llava_mini.data.layouts import Ground
from llava_mini.data.mentions import mention_things
from llava_mini.data.panoramas import load_panoramas, look_around
from llava_mini.data.questions import ask_about
from llava_mini.data.scenes import SceneLibrary, draw_scene
from llava_mini.data.videos import draw_video
from llava_mini.errors import DataError

FOLDER = "pmndrs-assets/package/hdri"


def write_panorama(path: Path, light: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    """Write linear light `(H, W, 3)` as the package does: OpenEXR in base64 in a script."""
    frame = av.VideoFrame(light.shape[1], light.shape[0], "gbrpf32le")
    for plane, channel in zip(frame.planes, (1, 2, 0), strict=True):
        rows = np.zeros((light.shape[0], plane.line_size // 4), dtype="<f4")
        rows[:, : light.shape[1]] = light[..., channel]
        plane.update(rows.tobytes())
    encoder = av.CodecContext.create("exr", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, "gbrpf32le"
    encoder.time_base, encoder.options = Fraction(1), {"format": "half"}
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    content = base64.b64encode(b"".join(bytes(packet) for packet in packets)).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"export default 'data:application/exr;base64,{content}'\n", encoding="ascii")


def test_light_becomes_colours_of_a_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panoramas, "_SHOWN", {"dawn": "sun, mountain"})
    light = np.zeros((32, 64, 3), dtype=np.float32)
    light[:, 8:] = (0.25, 0.5, 0.5)
    light[:, 48:] = 2.0  # a quarter is brighter than nine tenths of all
    light[10:14, 50:60] = np.inf
    write_panorama(tmp_path / FOLDER / "dawn.exr.js", light)
    (ground,) = load_panoramas(tmp_path)
    pixels = np.asarray(ground.picture)
    assert ground.shows == ("sun", "mountain")
    assert pixels.shape == (32, 64, 3)
    assert (pixels[:, :6] == 0).all()
    assert (pixels[:, 50:] == 255).all()
    assert np.abs(pixels[16, 20] - 255 * np.array([0.125, 0.25, 0.25]) ** (1 / 2.2)).max() < 1.5


def test_what_is_missing_or_damaged_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"apartment\.exr\.js is missing; fetch it with .* --use train"):
        load_panoramas(tmp_path)
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / "apartment.exr.js").write_text("export default 'data:application/exr;base64,AAAA'")
    with pytest.raises(DataError, match="holds no picture; delete its package's folder and fetch it again"):
        load_panoramas(tmp_path)


def test_a_view_is_square_and_goes_round() -> None:
    across = np.arange(64, dtype=np.uint8) * 4
    panorama = Image.fromarray(np.broadcast_to(across[None, :, None], (32, 64, 3)).copy())
    views = [look_around(random.Random(seed), panorama, 40) for seed in range(60)]
    assert {view.size for view in views} == {(40, 40)}
    assert all(view.mode == "RGB" for view in views)
    edges = [np.abs(np.diff(np.asarray(view)[20, :, 0].astype(int))).max() for view in views]
    assert min(edges) < 20 < max(edges)  # some look over the seam
    assert look_around(random.Random(3), panorama, 40).tobytes() == views[3].tobytes()


def test_training_scenes_and_videos_stand_on_them_half_of_the_time(tmp_path: Path) -> None:
    made = cutout_library(tmp_path)
    green = Ground(Image.new("RGB", (64, 32), (0, 255, 0)), ("bus",))
    library = SceneLibrary(made.trained, grounds=[green])
    scenes = [draw_scene(seed, library, "train").scene for seed in range(200)]
    behind = [scene for scene in scenes if scene.behind]
    assert 70 < len(behind) < 130
    assert all(scene.background is None for scene in behind)
    for seed, scene in enumerate(behind):
        if "bus" not in {thing.name for thing in scene.objects}:
            asked = ask_about(scene, random.Random(seed), ("bus", "cat", "rose"))
            assert not [one.text for one in asked if "bus" in one.text and one.accepted == ("no",)]
            named = mention_things(scene, random.Random(seed), ("bus", "cat", "rose"), 12)
            assert not [one.text for one in named if one.text == "bus" and one.present is False]
    plain = SceneLibrary(made.trained)
    assert any(draw_video(s, library).frames[0].tobytes() != draw_video(s, plain).frames[0].tobytes() for s in range(9))
