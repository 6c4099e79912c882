"""From a file to RGB pictures: the one door for everything that a user or a data set gives.

What a file is, is read from its content; a still picture becomes a `Picture`, anything that moves a `Video`.
`files` holds the limits, `pictures` and `video` the opening; their public names are repeated here.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from PIL import Image

from llava_mini.inputs.files import DEFAULT_LIMITS, MediaLimits, Source, container_of, opened, shown_name
from llava_mini.inputs.pictures import is_animated, open_picture, picture_header
from llava_mini.inputs.video import FrameSampling, Video, open_video

__all__ = [
    "DEFAULT_LIMITS",
    "FrameSampling",
    "MediaLimits",
    "Picture",
    "Source",
    "Video",
    "kind_of",
    "load_media",
    "open_picture",
    "open_video",
]


@dataclass(frozen=True)
class Picture:
    """An RGB picture."""

    image: Image.Image
    name: str
    """The file as it was given, for messages and listings."""

    @cached_property
    def content(self) -> str:
        """Name what it shows, by size, mode and pixels."""
        digest = hashlib.sha256(f"{self.image.mode} {self.image.size}".encode())
        digest.update(self.image.tobytes())
        return digest.hexdigest()


def load_media(
    source: Source, *, sampling: FrameSampling | None = None, limits: MediaLimits = DEFAULT_LIMITS
) -> Picture | Video:
    """Open a picture, or a video whose frames are decoded when they are asked for, whichever the source holds.

    An animated GIF, WEBP or PNG is a video: nothing of it is lost, and its times are kept. Where only its first frame
    is wanted, use `open_picture`. The arguments are those of `open_picture` and `open_video`.
    """
    name = shown_name(source)
    if isinstance(source, Image.Image) or kind_of(source, limits) == "image":
        return Picture(open_picture(source, limits), name)
    return open_video(source, sampling, limits=limits)


def kind_of(source: Source, limits: MediaLimits = DEFAULT_LIMITS) -> Literal["image", "video"]:
    """Say what a source holds, by its content and never by its name; what moves is a video."""
    if isinstance(source, Image.Image):
        return "image"
    name = shown_name(source)
    with opened(source, limits) as file:
        if container_of(file, name) != "picture":
            return "video"
        return "video" if is_animated(picture_header(file, name, limits)) else "image"
