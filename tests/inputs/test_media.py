"""Promises of the media reader: every file gives the right pixels, or one line that says what is wrong."""

import contextlib
import io
import os
import runpy
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from corpus import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    animation,
    broken_in_the_middle,
    encoded,
    grey_16_bit,
    palette_with_transparency,
    png_bomb,
    red_blue,
    rgb_16_bit,
    sound_only,
    turned_by_exif,
    turned_video,
    video,
)
from PIL import Image

from llava_mini.errors import MediaError
from llava_mini.inputs.media import (
    FrameSampling,
    MediaLimits,
    Picture,
    Source,
    Video,
    kind_of,
    load_media,
    open_picture,
    open_video,
)


class Frames(NamedTuple):
    """All frames of a video at once."""

    images: list[Image.Image]
    times_s: list[float]
    duration_s: float


def sample_frames(
    source: str | Path | bytes, fps: float = 1.0, limits: MediaLimits | None = None, **stretch: Any
) -> Frames:
    film = open_video(source, FrameSampling(fps, **stretch), limits=limits or MediaLimits())
    images = list(film.frames())
    assert len(images) == len(film)
    return Frames(images, list(film.times_s), film.duration_s)


def near(image: Image.Image, xy: tuple[int, int], colour: tuple[int, ...], tolerance: int = 12) -> bool:
    pixel = image.getpixel(xy)
    assert isinstance(pixel, tuple)
    return len(pixel) == 3 and all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


def refusal(source: Source, limits: MediaLimits | None = None) -> str:
    """Load a file that must be refused and return the one line that says why."""
    with pytest.raises(MediaError) as caught:
        load_media(source, limits=limits or MediaLimits())
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 400
    return line


def written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


# --- pictures ---


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_allowed_format_opens_from_path_text_and_bytes_with_the_same_pixels(
    tmp_path: Path, picture_format: str
) -> None:
    data = encoded(red_blue(), picture_format)
    path = written(tmp_path, "a.bin", data)
    opened = [open_picture(path), open_picture(str(path)), open_picture(data)]
    assert all(image.mode == "RGB" and image.size == (64, 32) for image in opened)
    assert near(opened[0], (8, 16), RED)
    assert near(opened[0], (56, 16), BLUE)
    assert opened[0].tobytes() == opened[1].tobytes() == opened[2].tobytes()


def test_other_picture_formats_are_refused(tmp_path: Path) -> None:
    for picture_format in ("TIFF", "PPM", "ICO", "PDF"):
        path = written(tmp_path, "a.png", encoded(red_blue(), picture_format))
        assert "is not a picture or video that can be opened" in refusal(path)


@pytest.mark.parametrize(
    ("orientation", "size", "first", "last"),
    [(1, (64, 32), RED, BLUE), (3, (64, 32), BLUE, RED), (6, (32, 64), RED, BLUE), (8, (32, 64), BLUE, RED)],
)
def test_a_photo_is_turned_as_its_exif_data_asks(
    orientation: int, size: tuple[int, int], first: tuple[int, int, int], last: tuple[int, int, int]
) -> None:
    image = open_picture(turned_by_exif(orientation))
    assert image.size == size
    assert near(image, (4, 4), first)
    assert near(image, (size[0] - 4, size[1] - 4), last)


def test_all_eight_orientations_agree_with_pillow() -> None:
    from PIL import ImageOps

    for orientation in range(1, 9):
        data = turned_by_exif(orientation)
        assert open_picture(data).tobytes() == ImageOps.exif_transpose(Image.open(io.BytesIO(data))).tobytes()


def test_a_turned_picture_in_memory_is_not_turned_twice() -> None:
    once = open_picture(turned_by_exif(6))
    assert open_picture(once).tobytes() == once.tobytes()


def test_junk_in_the_exif_data_does_not_cost_the_picture() -> None:
    data = encoded(red_blue(), "JPEG", exif=b"Exif\0\0not a tiff header at all")
    assert near(open_picture(data), (8, 16), RED)


def test_cmyk_keeps_its_colours() -> None:
    cmyk = Image.merge("CMYK", [Image.new("L", (16, 16), v) for v in (0, 255, 255, 0)])
    assert near(open_picture(encoded(cmyk, "JPEG", quality=95)), (8, 8), RED)


def test_16_bit_grey_is_scaled_and_not_clipped_to_white() -> None:
    image = open_picture(grey_16_bit())
    assert [image.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def test_16_bits_a_channel_are_scaled() -> None:
    assert near(open_picture(rgb_16_bit()), (0, 0), (128, 64, 0), tolerance=1)


def test_transparent_pixels_show_white_whatever_colour_hides_under_them() -> None:
    rgba = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    rgba.paste((255, 0, 0, 255), (0, 0, 4, 4))
    for data in (palette_with_transparency(), encoded(rgba, "PNG"), encoded(rgba, "WEBP", lossless=True)):
        image = open_picture(data)
        assert near(image, (1, 1), RED)
        assert near(image, (6, 1), WHITE)
    half = open_picture(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))
    assert near(half, (0, 0), (127, 127, 127), tolerance=1)
    assert near(open_picture(Image.new("LA", (2, 2), (0, 0))), (0, 0), WHITE)


def test_grey_black_and_white_and_palette_become_rgb() -> None:
    assert near(open_picture(encoded(Image.new("L", (4, 4), 90), "PNG")), (0, 0), (90, 90, 90), 1)
    assert near(open_picture(encoded(Image.new("1", (4, 4), 1), "PNG")), (0, 0), WHITE, 0)
    assert near(open_picture(encoded(red_blue().quantize(8), "PNG")), (60, 4), BLUE)


def test_a_picture_in_memory_is_left_as_it_was() -> None:
    original = red_blue()
    opened = open_picture(original)
    opened.paste(GREEN, (0, 0, 64, 32))
    assert near(original, (4, 4), RED)


def test_the_first_frame_of_an_animation_opens_as_a_picture() -> None:
    for picture_format in ("GIF", "WEBP", "PNG"):
        assert near(open_picture(animation([RED, BLUE], 500, picture_format)), (4, 4), RED)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "50,000,000" in refusal(written(tmp_path, "bomb.png", png_bomb(50_000)))
        assert "50,000,000" in refusal(png_bomb(10_000))
    assert "8000×8000" in refusal(png_bomb(8_000))
    assert "64×32 pixels" in refusal(encoded(red_blue(), "PNG"), MediaLimits(max_pixels=2047))
    assert "64×32 pixels" in refusal(red_blue(), MediaLimits(max_pixels=2047))


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_picture_cut_off_anywhere_is_refused_in_one_line(tmp_path: Path, picture_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), picture_format)
    for keep in (1, 3, 8, 13, 26, 30, len(data) // 2):
        assert "cut." in refusal(written(tmp_path, f"cut.{picture_format}", data[:keep]))


# --- files ---


def test_a_missing_file_is_named_in_the_words_of_the_user() -> None:
    assert refusal("cat.jpg") == "no such file: cat.jpg"
    assert refusal(Path("pictures/cat.jpg")) == "no such file: pictures/cat.jpg"


def test_what_is_not_a_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "is a folder" in refusal(tmp_path)
    assert "a device or a pipe" in refusal(tmp_path / "pipe.png")
    assert "a device or a pipe" in refusal("/dev/zero")


def test_odd_names_stay_on_one_line(tmp_path: Path) -> None:
    assert "no such file" in refusal("cat\nIgnore this.jpg")
    assert refusal("nul\0.png").startswith("not a file name")
    assert "cannot read" in refusal("x" * 5000)
    assert "no such file" in refusal("") or "folder" in refusal("")
    (tmp_path / "dög 🐶.png").write_bytes(encoded(red_blue(), "PNG"))
    assert isinstance(load_media(tmp_path / "dög 🐶.png"), Picture)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.png", encoded(red_blue(), "PNG"))
    path.chmod(0)
    assert "cannot read" in refusal(path)


@pytest.mark.parametrize("address", ["http://a.b/c.png", "HTTPS://a.b/c.mp4", "rtsp://a.b/c", "s3://a/b.png"])
def test_an_address_is_not_fetched(address: str) -> None:
    line = refusal(address)
    assert line.startswith("remote addresses are not opened; download the file first")
    assert refusal(Path(address)).startswith("remote addresses")


def test_empty_and_too_large_files_are_refused(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.mp4"):
        assert "is empty (0 bytes)" in refusal(written(tmp_path, name, b""))
    assert "at most 10 are opened" in refusal(encoded(red_blue(), "PNG"), MediaLimits(max_bytes=10))


def test_text_is_refused_whatever_its_name_says(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.mp4", "a.gif"):
        assert "is not a picture or video" in refusal(written(tmp_path, name, b"hello, I am a poem\n" * 20))


def test_svg_heic_and_pdf_are_refused_with_a_way_out() -> None:
    assert "give a JPEG, PNG" in refusal(b"<svg xmlns='http://www.w3.org/2000/svg'/>" + b" " * 40)
    assert "save it as JPEG or PNG" in refusal(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40)


def test_the_kind_is_seen_in_the_content_and_not_in_the_name(tmp_path: Path) -> None:
    assert kind_of(written(tmp_path, "a.mp4", encoded(red_blue(), "PNG"))) == "image"
    assert kind_of(written(tmp_path, "a.jpg", video([RED] * 4))) == "video"
    assert kind_of(written(tmp_path, "still.gif", encoded(red_blue(), "GIF"))) == "image"
    assert kind_of(written(tmp_path, "moving.gif", animation([RED, BLUE], 500))) == "video"
    assert kind_of(red_blue()) == "image"


def test_a_photo_with_its_preview_inside_is_a_picture() -> None:
    data = encoded(red_blue(), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 32), GREEN)])
    assert kind_of(data) == "image"
    assert near(open_picture(data), (8, 16), RED)


def test_loading_names_the_file_and_keeps_the_times(tmp_path: Path) -> None:
    picture = load_media(written(tmp_path, "a.png", encoded(red_blue(), "PNG")))
    film = load_media(written(tmp_path, "b.mp4", video([RED] * 8 + [BLUE] * 8)))
    assert isinstance(picture, Picture)
    assert isinstance(film, Video)
    assert (picture.name, film.name) == (str(tmp_path / "a.png"), str(tmp_path / "b.mp4"))
    assert film.times_s == (0.5, 1.5)
    assert film.duration_s == 2.0


# --- videos ---

COLOURS = [RED] * 8 + [GREEN] * 8 + [BLUE] * 8


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp4", "libx264"),
        ("mov", "libx264"),
        ("webm", "libvpx"),
        ("webm", "libvpx-vp9"),
        ("matroska", "libx264"),
        ("avi", "mpeg4"),
        ("avi", "libx264"),
    ],
)
def test_each_second_gives_the_frame_nearest_its_middle(container: str, codec: str) -> None:
    frames = sample_frames(video(COLOURS, container=container, codec=codec))
    assert frames.times_s == [0.5, 1.5, 2.5]
    assert frames.duration_s == pytest.approx(3.0, abs=0.01)
    for image, colour in zip(frames.images, (RED, GREEN, BLUE), strict=True):
        assert image.mode == "RGB"
        assert near(image, (32, 24), colour)


def test_frames_agree_with_a_plain_search_through_all_of_them() -> None:
    data = video([RED] * 37, fps=10)
    with av.open(io.BytesIO(data)) as plain:
        all_s = [frame.time for frame in plain.decode(video=0)]
    for fps in (0.4, 1.0, 2.3):
        n = max(1, round(3.7 * fps))
        middles_s = [3.7 * (i + 0.5) / n for i in range(n)]
        wanted = [min(all_s, key=lambda t, m=m: (round(abs(t - m), 6), t)) for m in middles_s]  # type: ignore[misc]
        assert sample_frames(data, fps).times_s == pytest.approx(wanted)


def test_a_clip_below_a_second_gives_its_middle() -> None:
    frames = sample_frames(video([RED, GREEN, BLUE], fps=10))
    assert frames.times_s == [0.1]
    assert near(frames.images[0], (32, 24), GREEN)


def test_a_single_frame_is_a_video_of_one() -> None:
    assert sample_frames(video([GREEN])).times_s == [0.0]


def test_more_frames_than_allowed_are_spread_over_the_whole_clip() -> None:
    data = video([RED] * 80, fps=8)
    assert sample_frames(data, max_frames=2).times_s == [2.5, 7.5]
    assert sample_frames(data, max_frames=100).times_s == [i + 0.5 for i in range(10)]
    with pytest.raises(MediaError, match=r"max_frames \(9\) must be at most 4"):
        sample_frames(data, max_frames=9, limits=MediaLimits(max_frames=4))
    assert len(sample_frames(data, fps=1e300, limits=MediaLimits(max_frames=7)).images) == 7


def test_a_stretch_is_sampled_alone() -> None:
    data = video(COLOURS)
    frames = sample_frames(data, start_s=1.0, end_s=2.0)
    assert frames.times_s == [1.5]
    assert near(frames.images[0], (32, 24), GREEN)
    assert frames.duration_s == 3.0
    assert sample_frames(data, start_s=2.0, end_s=99.0).times_s == [2.5]
    for start_s, end_s in (
        (3.0, None),
        (-1.0, None),
        (2.0, 1.0),
        (1.0, 1.0),
        (float("nan"), None),
        (0.0, float("nan")),
    ):
        with pytest.raises(MediaError, match="lasts"):
            sample_frames(data, start_s=start_s, end_s=end_s)


def test_frames_are_chosen_by_time_where_the_rate_varies() -> None:
    times_s = [0.0, 0.1, 0.2, 0.3, 0.4, 1.5, 2.9]
    colours = [RED] * 5 + [GREEN, BLUE]
    for container, codec in (("mp4", "libx264"), ("webm", "libvpx")):
        frames = sample_frames(video(colours, 10, container=container, codec=codec, times_s=times_s), end_s=3.0)
        assert frames.times_s == pytest.approx([0.4, 1.5, 2.9])
        assert near(frames.images[1], (32, 24), GREEN)


def test_a_film_that_starts_late_counts_from_its_first_frame() -> None:
    data = video(COLOURS, container="matroska", times_s=[100 + i / 8 for i in range(24)])
    assert sample_frames(data).times_s == pytest.approx([0.5, 1.5, 2.5])


def test_an_absurd_rate_in_the_header_does_not_matter() -> None:
    times_s = [i / 8 for i in range(16)]
    frames = sample_frames(video([RED] * 16, 1_000_000, times_s=times_s))
    assert frames.times_s == pytest.approx([0.5, 1.375])
    assert frames.duration_s == pytest.approx(15 / 8, abs=0.01)  # the last frame claims to last a microsecond
    assert len(sample_frames(video([RED] * 16, 90_000)).images) == 1


def test_a_missing_duration_is_measured() -> None:
    live = video(COLOURS, container="matroska", live="1")
    with av.open(io.BytesIO(live)) as container:
        assert container.duration is None
    assert sample_frames(live).times_s == [0.5, 1.5, 2.5]
    fragments = video(COLOURS, movflags="frag_keyframe+empty_moov")
    assert sample_frames(fragments).times_s == [0.5, 1.5, 2.5]


def test_a_phone_video_is_upright() -> None:
    image = sample_frames(turned_video((RED, BLUE))).images[0]
    assert image.size == (48, 64)
    assert near(image, (24, 8), RED)
    assert near(image, (24, 56), BLUE)


def test_large_frames_are_shrunk_and_keep_their_shape() -> None:
    image = sample_frames(video([RED] * 4, size=(320, 180)), limits=MediaLimits(max_frame_side_px=160)).images[0]
    assert image.size == (160, 90)


def test_an_animated_picture_is_sampled_by_its_times() -> None:
    for picture_format in ("GIF", "WEBP", "PNG"):
        loaded = load_media(animation([RED, RED, GREEN, GREEN, BLUE, BLUE], 500, picture_format))
        assert isinstance(loaded, Video)
        assert loaded.duration_s == pytest.approx(3.0)
        images = list(loaded.frames())
        assert len(images) == len(loaded) == 3
        assert near(images[0], (4, 4), RED)
        assert near(images[2], (4, 4), BLUE)


def test_a_still_picture_is_not_a_video() -> None:
    with pytest.raises(MediaError, match="without motion"):
        sample_frames(encoded(red_blue(), "PNG"))
    with pytest.raises(MediaError, match="is a video"):
        open_picture(video([RED] * 4))


def test_a_film_cut_off_gives_what_is_left_of_it() -> None:
    data = video(COLOURS, container="matroska")
    frames = sample_frames(data[: len(data) * 2 // 3])
    assert 1 <= len(frames.images) <= 3
    assert near(frames.images[0], (32, 24), RED)
    live = video(COLOURS, movflags="frag_keyframe+empty_moov")
    frames = sample_frames(live[: len(live) * 2 // 3])
    assert 1 <= len(frames.images) <= 3
    assert near(frames.images[0], (32, 24), RED)


def test_a_film_cut_before_its_index_is_refused_in_one_line(tmp_path: Path) -> None:
    data = video(COLOURS)
    for keep in (9, 32, 60, len(data) // 3):
        assert "truncated or damaged" in refusal(written(tmp_path, "cut.mp4", data[:keep]))
    assert "truncated" in refusal(written(tmp_path, "cut.webm", b"\x1aE\xdf\xa3" + b"\0" * 50))


def test_a_broken_packet_costs_its_own_frame_only() -> None:
    rng = np.random.default_rng(0)
    noisy = [tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(24)]
    data = video(noisy, container="matroska", codec="libvpx")  # type: ignore[arg-type]
    middle = len(data) // 2
    assert len(sample_frames(broken_in_the_middle(data, middle, middle + 20)).images) >= 1


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    for name, container in (("a.mp4", "mp4"), ("a.m4a", "ipod"), ("a.mkv", "matroska")):
        assert "has no video stream" in refusal(written(tmp_path, name, sound_only(container)))


def test_a_playlist_named_mp4_leads_nowhere(tmp_path: Path) -> None:
    secret = written(tmp_path, "secret.mp4", video([RED] * 8))
    lists = {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{secret}'\n",
        "dash": f"<?xml version='1.0'?><MPD><Period><BaseURL>{secret}</BaseURL></Period></MPD>",
        "m3u8 behind a film's first bytes": f"\0\0\0\x08ftyp\n#EXTM3U\n#EXTINF:1.0,\nfile://{secret}\n",
    }
    for text in lists.values():
        line = refusal(written(tmp_path, "list.mp4", text.encode()))
        assert "is not a picture or video" in line or "damaged" in line


def test_a_film_over_a_limit_is_refused() -> None:
    data = video(COLOURS)
    assert "lasts longer than 2 s" in refusal(data, MediaLimits(max_duration_s=2.0))
    assert "64×48 pixels" in refusal(data, MediaLimits(max_pixels=1000))
    assert "took longer than 0 s" in refusal(data, MediaLimits(max_decode_s=0.0))
    assert "lasts longer" in refusal(animation([RED, BLUE], 5000), MediaLimits(max_duration_s=2.0))


@pytest.mark.parametrize(("fps", "max_frames"), [(0.0, None), (-1.0, None), (float("nan"), None), (1.0, 0)])
def test_a_rate_without_sense_is_refused(fps: float, max_frames: int | None) -> None:
    with pytest.raises(MediaError, match="must be"):
        sample_frames(video([RED]), fps, max_frames=max_frames)


def test_damaged_bytes_anywhere_end_in_a_result_or_one_line() -> None:
    rng = np.random.default_rng(1)
    for data in (
        video([RED] * 8),
        video([RED] * 8, container="webm", codec="libvpx"),
        animation([RED, BLUE], 200),
        encoded(red_blue(), "PNG"),
        encoded(red_blue(), "JPEG"),
        encoded(red_blue(), "WEBP"),
    ):
        for _ in range(30):
            broken = bytearray(data)
            for place in rng.integers(0, len(data), 8):
                broken[place] = rng.integers(0, 256)
            with contextlib.suppress(MediaError):  # any other kind of error is a failure
                loaded = load_media(bytes(broken))
                if isinstance(loaded, Video):
                    assert len(list(loaded.frames())) == len(loaded)


# --- the bundled examples ---

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "src" / "llava_mini" / "examples"


def test_the_bundled_examples_are_what_their_program_draws(tmp_path: Path) -> None:
    program = runpy.run_path(str(REPOSITORY / "tools" / "draw_examples.py"))
    program["write_all"](tmp_path)
    bundled_media = [path for path in EXAMPLES.iterdir() if path.suffix != ".json"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in bundled_media}
    for path in bundled_media:
        bundled, drawn = load_media(path), load_media(tmp_path / path.name)
        pixels = [
            np.array([np.asarray(image, dtype=np.int16) for image in images])
            for images in ([m.image] if isinstance(m, Picture) else list(m.frames()) for m in (bundled, drawn))
        ]
        assert np.abs(pixels[0] - pixels[1]).mean() < 1.0


def test_the_bundled_examples_are_small_and_open() -> None:
    assert sum(path.stat().st_size for path in EXAMPLES.iterdir()) < 200_000
    for name in ("shapes.png", "counting.png", "house.png", "cat.png", "apple.png"):
        assert open_picture(EXAMPLES / name).size == (512, 512)
    film = load_media(EXAMPLES / "video.mp4")
    assert isinstance(film, Video)
    assert film.times_s == (0.5, 1.5, 2.5, 3.5)
    images = list(film.frames())
    assert near(images[0], (0, 0), WHITE)
    assert near(images[3], (77, 160), (0x1F, 0x5F, 0xE0))
    assert near(images[0], (77, 100), WHITE)
