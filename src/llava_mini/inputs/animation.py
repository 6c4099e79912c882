"""Frames of an animated GIF, WEBP or PNG, read by Pillow, which lays partial frames over each other."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llava_mini.errors import MediaError
from llava_mini.inputs.files import (
    Deadline,
    MediaLimits,
    TimedFrame,
    check_duration,
    check_pixels,
    opened,
    shrunk,
)
from llava_mini.inputs.pictures import damaged, is_animated, picture_header, to_rgb


class Animation:
    """An animated picture: how long each frame is shown is known after one pass."""

    def __init__(self, source: str | Path | bytes, name: str, limits: MediaLimits) -> None:
        self._source, self._name, self._limits = source, name, limits
        self._deadline = Deadline(name, limits)
        ends_s = [0.0]
        for _, shown_s in self._decoded():
            ends_s.append(ends_s[-1] + shown_s)
            check_duration(ends_s[-1], name, limits)
        self.times_s = np.array(ends_s[:-1])
        """When each frame appears, counted from the first."""
        self.duration_s = ends_s[-1]
        self.damaged_packets = 0

    def read(self, chosen: NDArray[np.int64]) -> Iterator[TimedFrame]:
        """Decode the frames of the given rising numbers."""
        wanted = iter(chosen.tolist())
        number = next(wanted, None)
        for index, (image, _) in enumerate(self._decoded()):
            if index == number:
                with self._deadline.paused():
                    yield TimedFrame(float(self.times_s[index]), self._shrunk(image))
                number = next(wanted, None)

    def _shrunk(self, image: Image.Image) -> Image.Image:
        """Convert to RGB, then shrink; the next frame will be drawn into the same picture."""
        size = shrunk(image.width, image.height, self._limits)
        rgb = to_rgb(image)
        return rgb.copy() if rgb.size == size else rgb.resize(size, Image.Resampling.BICUBIC)

    def _decoded(self) -> Iterator[tuple[Image.Image, float]]:
        """Decode each frame and say how long it is shown."""
        with opened(self._source, self._limits) as file:
            image = picture_header(file, self._name, self._limits)
            if not is_animated(image):
                raise MediaError(f"{self._name} is a picture without motion; give a video or an animation")
            for index in range(image.n_frames):  # type: ignore[attr-defined]
                self._deadline.check()
                try:
                    image.seek(index)
                    check_pixels(image.width, image.height, self._name, self._limits)  # a frame may enlarge it
                    image.load()
                except MediaError:
                    raise
                except Exception as error:  # decoders raise OSError, EOFError, struct.error, …
                    if index == 0:
                        raise damaged(self._name) from error
                    return  # an animation that breaks off ends where it breaks
                duration_ms = float(image.info.get("duration") or 0)
                yield image, duration_ms / 1000 if duration_ms > 10 else 0.1  # as browsers do: too short means 100 ms
