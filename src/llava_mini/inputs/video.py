"""Sample RGB frames from a video by time.

Source: LLaVA-Mini, section 5.1: one frame per second, the middle one of each segment.

A film is opened from memory or an open file, by the one demuxer that its first bytes ask for and with no protocol
allowed: a playlist, or a reference inside a file, leads nowhere. Animated pictures are read by Pillow.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import av
from av.stream import Disposition
from PIL import Image

from llava_mini.errors import MediaError
from llava_mini.inputs.files import (
    DEFAULT_LIMITS,
    WANTED,
    Container,
    MediaLimits,
    check_deadline,
    check_duration,
    check_pixels,
    container_of,
    opened,
    shown_name,
)
from llava_mini.inputs.pictures import damaged, is_animated, picture_header, to_rgb

_NOTHING_ELSE = {"protocol_whitelist": "none", "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"}
_TICK_S = 1e-6  # two frames are equally near when rounding alone decides between them


class Frames(NamedTuple):
    """Frames sampled from a video."""

    images: list[Image.Image]
    times_s: list[float]  # when each frame appears, counted from the first frame of the video
    duration_s: float  # of the whole video


def sample_frames(
    source: str | Path | bytes,
    fps: float = 1.0,
    *,
    max_frames: int | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> Frames:
    """Sample a video at `fps` frames per second: from each segment, the frame nearest its middle, by time.

    A stretch of t seconds is cut into n = max(1, round(t·fps)) equal segments, or `max_frames` where that is fewer: a
    short clip gives its middle, and a long video is covered evenly to its end.

    Args:
        source: a path or the bytes of a file.
        fps: frames per second of video.
        max_frames: fewer frames than `limits.max_frames`, never more.
        start_s: where the stretch begins, counted from the first frame; the beginning if left out.
        end_s: where it ends; the end of the video if left out or later than that.
        limits: how large and how long the video may be.

    Raises:
        MediaError: the file is missing, damaged, too large, too long or has no pictures in it.
    """
    if not 0 < fps < float("inf"):
        raise MediaError(f"fps ({fps}) must be a number above 0")
    if max_frames is not None and max_frames < 1:
        raise MediaError(f"max_frames ({max_frames}) must be 1 or more")
    most = limits.max_frames if max_frames is None else min(max_frames, limits.max_frames)
    name = shown_name(source)
    with opened(source, limits) as file:
        container = container_of(file, name)
        clip = _Animation(file, name, limits) if container == "picture" else _Film(file, name, container, limits)
        duration_s = clip.duration_s()
        start, end = _stretch(start_s, end_s, duration_s, name)
        n = int(max(1, min(most, (end - start) * fps + 0.5)))
        targets_s = [start + (end - start) * (i + 0.5) / n for i in range(n)]
        chosen = _nearest(clip.frames(), targets_s)
    if not chosen:
        raise MediaError(f"{name} holds no frame that can be decoded; it may be truncated or damaged")
    return Frames([image for _, image in chosen], [time_s for time_s, _ in chosen], duration_s)


class _Frame(NamedTuple):
    """A decoded frame, when it appears, and how to convert it: most frames are never looked at."""

    time_s: float
    image: Callable[[], Image.Image]


def _stretch(start_s: float | None, end_s: float | None, duration_s: float, name: str) -> tuple[float, float]:
    """Check the stretch that is asked for."""
    start = 0.0 if start_s is None else start_s
    end = duration_s if end_s is None else end_s
    if start < 0 or (start_s is not None and not start < duration_s) or (end_s is not None and not start < end):
        raise MediaError(f"start_s ({start:g}) and end_s ({end:g}) must lie in {name}, which lasts {duration_s:.2f} s")
    return start, min(end, duration_s)


def _nearest(frames: Iterator[_Frame], targets_s: list[float]) -> list[tuple[float, Image.Image]]:
    """Choose the frame nearest to each target, the earlier of two equally near; stop after the last target."""
    chosen: list[tuple[float, Image.Image]] = []
    before: _Frame | None = None
    for after in frames:
        if before is not None and after.time_s <= before.time_s:
            continue  # a damaged file may repeat a time; the first frame with it is kept
        while len(chosen) < len(targets_s) and targets_s[len(chosen)] <= after.time_s:
            target_s = targets_s[len(chosen)]
            earlier = before is not None and target_s - before.time_s <= after.time_s - target_s + _TICK_S
            _choose(before if before is not None and earlier else after, chosen)
        if len(chosen) == len(targets_s):
            return chosen
        before = after
    while before is not None and len(chosen) < len(targets_s):
        _choose(before, chosen)
    return chosen


def _choose(frame: _Frame, chosen: list[tuple[float, Image.Image]]) -> None:
    """Convert a frame, once even where several targets choose it."""
    again = bool(chosen) and chosen[-1][0] == frame.time_s
    chosen.append(chosen[-1] if again else (frame.time_s, frame.image()))


class _Film:
    """A video in a container. Its packets are timed first, as a header may miss or lie, and decoded after that."""

    def __init__(self, file: BinaryIO, name: str, container: Container, limits: MediaLimits) -> None:
        self.file, self.name, self.container, self.limits = file, name, container, limits
        self.deadline_s = time.monotonic() + limits.max_decode_s
        self.first_s = 0.0

    def duration_s(self) -> float:
        """Measure from the beginning of the first frame to the end of the last, without decoding."""
        spans: list[tuple[float, float]] = []  # when a frame appears, how long it is shown
        for packet in self._packets():
            ticks = packet.dts if packet.pts is None else packet.pts
            if ticks is not None and not packet.is_discard:
                spans.append((float(ticks * packet.time_base), float((packet.duration or 0) * packet.time_base)))
        if not spans:
            raise MediaError(f"{self.name} holds no frame; it may be truncated or damaged")
        self.first_s = min(spans)[0]
        last_s, shown_s = max(spans)
        if shown_s == 0 and len(spans) > 1:  # WEBM may leave the last frame's length out: take the mean of the others
            shown_s = (last_s - self.first_s) / (len(spans) - 1)
        check_duration(last_s + shown_s - self.first_s, self.name, self.limits)
        return last_s + shown_s - self.first_s

    def frames(self) -> Iterator[_Frame]:
        """Decode in order; a damaged packet is skipped."""
        for packet in self._packets():
            try:
                decoded = packet.decode()
            except av.error.FFmpegError:
                continue  # a broken packet costs its own frame, not the video
            for frame in decoded:
                check_pixels(frame.width, frame.height, self.name, self.limits)
                if frame.time is not None:
                    yield _Frame(frame.time - self.first_s, partial(self._image, frame))

    def _image(self, frame: av.VideoFrame) -> Image.Image:
        """Convert to RGB while shrinking, then turn: `rotation` counts degrees counter-clockwise, as Pillow does."""
        width, height = _shrunk(frame.width, frame.height, self.limits)
        image: Image.Image = frame.to_image(width=width, height=height)
        return image.rotate(frame.rotation, expand=True) if frame.rotation else image

    def _packets(self) -> Iterator[av.Packet]:
        """Read the packets of the first film; a file that breaks off ends where it breaks."""
        self.file.seek(0)
        try:
            container = av.open(self.file, format=self.container, options=_NOTHING_ELSE, metadata_errors="replace")
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(f"{self.name} is truncated or damaged; {WANTED}") from error
        with container:
            films = [stream for stream in container.streams.video if _is_film(stream)]
            if not films:
                raise MediaError(f"{self.name} has no video stream that can be decoded, perhaps only sound; {WANTED}")
            check_pixels(films[0].width, films[0].height, self.name, self.limits)
            films[0].thread_type = "AUTO"
            films[0].codec_context.options = {"max_pixels": str(self.limits.max_pixels)}  # a frame may be larger
            packets = container.demux(films[0])
            while True:
                check_deadline(self.deadline_s, self.name, self.limits)
                try:
                    packet = next(packets)
                except (StopIteration, av.error.FFmpegError):
                    return
                yield packet


class _Animation:
    """An animated GIF, WEBP or PNG; Pillow lays its partial frames over each other."""

    def __init__(self, file: BinaryIO, name: str, limits: MediaLimits) -> None:
        self.file, self.name, self.limits = file, name, limits
        self.deadline_s = time.monotonic() + limits.max_decode_s

    def duration_s(self) -> float:
        """Add up how long each frame is shown."""
        total_s = 0.0
        for _, shown_s in self._timed():
            total_s += shown_s
            check_duration(total_s, self.name, self.limits)
        return total_s

    def frames(self) -> Iterator[_Frame]:
        """Decode in order."""
        now_s = 0.0
        for image, shown_s in self._timed():
            yield _Frame(now_s, partial(self._image, image.copy()))  # the next frame is drawn into the same picture
            now_s += shown_s

    def _image(self, image: Image.Image) -> Image.Image:
        """Convert to RGB, then shrink."""
        size = _shrunk(image.width, image.height, self.limits)
        rgb = to_rgb(image)
        return rgb if rgb.size == size else rgb.resize(size, Image.Resampling.BICUBIC)

    def _timed(self) -> Iterator[tuple[Image.Image, float]]:
        """Decode each frame and say how long it is shown."""
        image = picture_header(self.file, self.name, self.limits)
        if not is_animated(image):
            raise MediaError(f"{self.name} is a picture without motion; give a video or an animation")
        for index in range(image.n_frames):  # type: ignore[attr-defined]
            check_deadline(self.deadline_s, self.name, self.limits)
            try:
                image.seek(index)
                check_pixels(image.width, image.height, self.name, self.limits)  # a frame may enlarge the picture
                image.load()
            except MediaError:
                raise
            except Exception as error:  # decoders raise OSError, EOFError, struct.error, …
                if index == 0:
                    raise damaged(self.name) from error
                return  # an animation that breaks off ends where it breaks
            duration_ms = float(image.info.get("duration") or 0)
            yield (
                image,
                duration_ms / 1000 if duration_ms > 10 else 0.1,
            )  # as browsers do: too short means 100 ms


def _is_film(stream: av.VideoStream) -> bool:
    """Tell a film that can be decoded from a song's cover and from an unknown codec."""
    return stream.codec_context is not None and not stream.disposition & Disposition.attached_pic


def _shrunk(width: int, height: int, limits: MediaLimits) -> tuple[int, int]:
    """Scale a size down until its longer side fits `max_frame_side_px`."""
    scale = min(1.0, limits.max_frame_side_px / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
