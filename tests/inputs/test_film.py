"""Jumping or reading on, whole or damaged: the frames are the same, and what is lost is counted."""

import io
from typing import Any

import av
import pytest
from corpus import FILM_GROUP, FILM_LENGTH, damaged_film, moving_film, with_broken_packets
from PIL import Image

from llava_mini.errors import MediaError
from llava_mini.inputs.film import _Reader
from llava_mini.inputs.video import FrameSampling, Video, open_video

CONTAINERS = [("mp4", "libx264"), ("matroska", "libx264"), ("webm", "libvpx-vp9")]


def shown(data: bytes, *, seek: bool | None, **sampling: Any) -> tuple[list[bytes], Video]:
    video = open_video(data, FrameSampling(**sampling), seek=seek)
    return [frame.tobytes() for frame in video.frames()], video


def plainly(data: bytes) -> dict[float, bytes]:
    """Every frame by its time, decoded from the first to the last."""
    with av.open(io.BytesIO(data)) as container:
        return {round(float(f.time or 0), 3): f.to_image().tobytes() for f in container.decode(video=0)}


@pytest.fixture
def jumps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The packets that a reader jumped to."""
    made: list[int] = []
    seek = _Reader._seek

    def counted(self: _Reader, place: int) -> None:
        made.append(place)
        seek(self, place)

    monkeypatch.setattr(_Reader, "_seek", counted)
    return made


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
@pytest.mark.parametrize("fps", [0.25, 1.0, 8.0])
def test_jumping_reading_on_and_plain_decoding_give_the_same_frames(container: str, codec: str, fps: float) -> None:
    data = moving_film(container, codec)
    jumped, video = shown(data, seek=True, fps=fps)
    read_on, _ = shown(data, seek=False, fps=fps)
    chosen, _ = shown(data, seek=None, fps=fps)
    everything = plainly(data)
    assert jumped == read_on == chosen == [everything[round(time_s, 3)] for time_s in video.times_s]
    assert len(set(jumped)) == len(jumped) == round(12 * fps)


def test_frames_that_follow_a_later_keyframe_are_right_too() -> None:
    data = moving_film(open_groups=True)
    jumped, video = shown(data, seek=True, fps=8.0)
    everything = plainly(data)
    assert jumped == [everything[round(time_s, 3)] for time_s in video.times_s]


def test_a_film_is_jumped_through_where_samples_are_further_apart_than_keyframes(jumps: list[int]) -> None:
    data = moving_film()
    shown(data, seek=None, fps=2.0)
    assert jumps == []  # a keyframe every 1.5 s, a sample every 0.5 s
    shown(data, seek=None, fps=0.2)
    assert jumps
    assert all(place % FILM_GROUP == 0 for place in jumps)


def test_a_film_without_an_index_falls_back_to_reading_on(jumps: list[int]) -> None:
    data = moving_film("matroska", live=True)
    jumped, _ = shown(data, seek=True, fps=0.25)
    assert jumps
    assert jumped == shown(data, seek=False, fps=0.25)[0]


def test_a_film_can_be_read_again_and_from_its_middle() -> None:
    video = open_video(moving_film(), FrameSampling(fps=2.0, start_s=4.0, end_s=8.0))
    first = [frame.tobytes() for frame in video.frames()]
    assert [frame.tobytes() for frame in video.frames()] == first
    assert len(video) == len(first) == 8
    assert video.times_s[0] == pytest.approx(4.25)
    frames = video.frames()
    next(frames)
    frames.close()  # nobody has to read to the end  # type: ignore[attr-defined]
    assert [frame.tobytes() for frame in video.frames()] == first


def test_damaged_packets_are_counted_and_their_neighbours_stand_in() -> None:
    data = damaged_film()
    results = [shown(data, seek=seek, fps=8.0) for seek in (True, False)]
    assert results[0][0] == results[1][0]
    assert len(results[0][0]) == len(results[0][1]) == FILM_LENGTH
    assert results[0][1].damaged_packets == results[1][1].damaged_packets > 0
    assert shown(moving_film("matroska", "libvpx"), seek=None, fps=8.0)[1].damaged_packets == 0


def test_a_film_of_which_nothing_can_be_decoded_is_refused() -> None:
    data = moving_film("matroska", "libvpx")
    broken = open_video(with_broken_packets(data, range(FILM_LENGTH)))
    assert broken.times_s == open_video(data).times_s  # its packets can still be timed
    with pytest.raises(MediaError, match="no frame that can be decoded"):
        list(broken.frames())


def test_a_video_of_frames_has_one_a_second() -> None:
    video = Video.of([Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")])
    assert (len(video), video.times_s, video.duration_s) == (2, (0.0, 1.0), 2.0)
    assert [frame.getpixel((0, 0)) for frame in video.frames()] == [(255, 0, 0), (0, 0, 255)]
