"""Sample RGB frames from a video by time, one after the other: no more than one is held here.

Source: LLaVA-Mini, section 5.1: one frame per second, the middle one of each segment.

Times are read first, from the packets alone, so what will be shown is known before anything is decoded. `film` reads
containers, `animation` pictures that move.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llava_mini.errors import MediaError
from llava_mini.inputs.animation import Animation
from llava_mini.inputs.files import DEFAULT_LIMITS, MediaLimits, TimedFrame, container_of, opened, shown_name
from llava_mini.inputs.film import Film

_TICK_S = 1e-6  # two frames are equally near when rounding alone decides between them


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a video are looked at.

    Raises:
        MediaError: when a value makes no sense.
    """

    fps: float = 1.0
    """Frames per second of video."""
    max_frames: int | None = None
    """Most frames of one video; a longer one is looked at more rarely, evenly to its end."""
    start_s: float | None = None
    """Where to begin, in seconds from the first frame; the beginning if left out."""
    end_s: float | None = None
    """Where to end; the end of the video if left out or later than that."""

    def __post_init__(self) -> None:
        if not 0 < self.fps < float("inf"):
            raise MediaError(f"fps ({self.fps}) must be a number above 0")
        if self.max_frames is not None and self.max_frames < 1:
            raise MediaError(f"max_frames ({self.max_frames}) must be 1 or more")


class Video:
    """A video and the moments at which it is looked at; its frames are decoded when they are asked for, each time."""

    def __init__(
        self,
        read: Callable[[], Iterator[TimedFrame]],
        times_s: Sequence[float],
        duration_s: float,
        name: str,
        content: Callable[[], str],
    ) -> None:
        self._read, self._content = read, content
        self.times_s = tuple(times_s)
        """When each frame appears, counted from the first frame of the video."""
        self.duration_s = duration_s
        """Of the whole video, also where only a stretch is sampled."""
        self.name = name
        """The file as it was given, for messages and listings."""
        self.damaged_packets = 0
        """Packets that could not be decoded; known when the frames have been read."""

    @classmethod
    def of(cls, images: Sequence[Image.Image], name: str = "frames") -> "Video":
        """Make a video of frames, one a second."""
        timed = [TimedFrame(float(second), image) for second, image in enumerate(images)]
        times = [frame.time_s for frame in timed]
        return cls(lambda: iter(timed), times, float(len(timed)), name, lambda: _digest_of(images))

    def __len__(self) -> int:
        return len(self.times_s)

    @cached_property
    def content(self) -> str:
        """What is shown, as one word: the same for the same file and the same moments; reads the file once."""
        return f"{self._content()} {self.times_s}"

    def frames(self) -> Iterator[Image.Image]:
        """Decode the frames in order of time; where one cannot be decoded, its neighbour stands for it.

        Raises:
            MediaError: when no frame can be decoded, or decoding takes too long.
        """
        for frame in self._read():
            yield frame.image


def open_video(
    source: str | Path | bytes,
    sampling: FrameSampling | None = None,
    *,
    limits: MediaLimits = DEFAULT_LIMITS,
    seek: bool | None = None,
) -> Video:
    """Choose the frames of a video: from each segment the one nearest its middle, by time.

    A stretch of t seconds is cut into n = max(1, round(t·fps)) equal segments, or `max_frames` where that is fewer: a
    short clip gives its middle, and a long video is covered evenly to its end.

    Args:
        source: a path or the bytes of a file.
        sampling: which frames; one a second if left out.
        limits: how large and how long the video may be.
        seek: jump over what is not needed, or read through it; None: jump where more than a keyframe's distance lies
            between two samples. The frames are the same.

    Raises:
        MediaError: the file is missing, damaged, too large, too long or has no pictures in it.
    """
    sampling = sampling or FrameSampling()
    name = shown_name(source)
    if sampling.max_frames is not None and sampling.max_frames > limits.max_frames:
        raise MediaError(f"max_frames ({sampling.max_frames}) must be at most {limits.max_frames}")
    with opened(source, limits) as file:
        container = container_of(file, name)
    if container == "picture":
        clip: Film | Animation = Animation(source, name, limits)
    else:
        clip = Film(source, name, container, limits, seek=seek)
    start, end = _stretch(sampling, clip.duration_s, name)
    n = int(max(1, min(sampling.max_frames or limits.max_frames, (end - start) * sampling.fps + 0.5)))
    targets_s = start + (end - start) * (np.arange(n) + 0.5) / n
    chosen, repeats = np.unique(_nearest(clip.times_s, targets_s), return_counts=True)

    def read() -> Iterator[TimedFrame]:
        for frame, count in zip(clip.read(chosen), repeats.tolist(), strict=True):
            yield from [frame] * count
        video.damaged_packets = clip.damaged_packets

    def digest() -> str:
        read_bytes = hashlib.sha256()
        with opened(source, limits) as file:
            while block := file.read(2**20):
                read_bytes.update(block)
        return read_bytes.hexdigest()

    video = Video(read, clip.times_s[chosen].repeat(repeats).tolist(), clip.duration_s, name, digest)
    return video


def _digest_of(images: Sequence[Image.Image]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.mode} {image.size}".encode() + image.tobytes())
    return digest.hexdigest()


def _stretch(sampling: FrameSampling, duration_s: float, name: str) -> tuple[float, float]:
    """Check the stretch that is asked for."""
    start = 0.0 if sampling.start_s is None else sampling.start_s
    end = duration_s if sampling.end_s is None else sampling.end_s
    late = sampling.start_s is not None and not start < duration_s
    if start < 0 or late or (sampling.end_s is not None and not start < end):
        raise MediaError(
            f"the stretch from {start:g} s to {end:g} s must lie in {name}, which lasts {duration_s:.2f} s"
        )
    return start, min(end, duration_s)


def _nearest(times_s: NDArray[np.float64], targets_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which of the rising times is nearest to each target, the earlier of two equally near."""
    after = np.searchsorted(times_s, targets_s).clip(max=len(times_s) - 1)
    before = (after - 1).clip(min=0)
    earlier = targets_s - times_s[before] <= times_s[after] - targets_s + _TICK_S
    return np.where(earlier, before, after)
