"""From a file to RGB pictures: the one door for everything that a user or a data set gives.

What a file is, is read from its content; a still picture becomes a `Picture`, anything that moves a `Video`.
`files` holds the limits, `pictures` and `video` the decoding; their public names are repeated here.
"""

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from llava_mini.inputs.files import DEFAULT_LIMITS, MediaLimits, Source, container_of, opened, shown_name
from llava_mini.inputs.pictures import is_animated, open_picture, picture_header
from llava_mini.inputs.video import Frames, sample_frames

__all__ = [
    "DEFAULT_LIMITS",
    "Frames",
    "MediaLimits",
    "Picture",
    "Source",
    "Video",
    "kind_of",
    "load_media",
    "open_picture",
    "sample_frames",
]


@dataclass(frozen=True)
class Picture:
    """An RGB picture."""

    image: Image.Image
    name: str
    """The file as it was given, for messages and listings."""


@dataclass(frozen=True)
class Video:
    """RGB frames of a video, in the order of time."""

    images: list[Image.Image]
    times_s: list[float]
    """When each frame appears, counted from the first frame of the video."""
    duration_s: float
    """Of the whole video, also where only a stretch was sampled."""
    name: str
    """The file as it was given, for messages and listings."""


def load_media(
    source: Source,
    *,
    fps: float = 1.0,
    max_frames: int | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> Picture | Video:
    """Open a picture or sample a video, whichever the source holds.

    An animated GIF, WEBP or PNG is a video: nothing of it is lost, and its times are kept. Where only its first frame
    is wanted, use `open_picture`. The arguments are those of `open_picture` and `sample_frames`.
    """
    name = shown_name(source)
    if isinstance(source, Image.Image) or kind_of(source, limits) == "image":
        return Picture(open_picture(source, limits), name)
    frames = sample_frames(source, fps, max_frames=max_frames, start_s=start_s, end_s=end_s, limits=limits)
    return Video(frames.images, frames.times_s, frames.duration_s, name)


def kind_of(source: Source, limits: MediaLimits = DEFAULT_LIMITS) -> Literal["image", "video"]:
    """Say what a source holds, by its content and never by its name; what moves is a video."""
    if isinstance(source, Image.Image):
        return "image"
    name = shown_name(source)
    with opened(source, limits) as file:
        if container_of(file, name) != "picture":
            return "video"
        return "video" if is_animated(picture_header(file, name, limits)) else "image"
