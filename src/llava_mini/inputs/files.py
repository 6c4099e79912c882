"""Open a file that a stranger may have made: limits, what kind of file it is by its first bytes, one-line errors.

Nothing is fetched, and only regular files of the formats named here go on to a decoder (`pictures`, `video`).
"""

import io
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from PIL import Image

from llava_mini.errors import MediaError

Source = str | Path | bytes | Image.Image
"""A path, the bytes of a file, or a Pillow picture."""

Container = Literal["picture", "mov", "matroska", "avi"]
"""Who opens a file: Pillow, or the one demuxer that is allowed to read it."""

WANTED = "give a JPEG, PNG, WEBP, GIF or BMP picture or an MP4, MOV, WEBM, MKV or AVI video"

_REMOTE = re.compile(r"(https?|ftps?|rtmps?|rtsp|s3|gs|hf):/", re.IGNORECASE)  # one slash: Path() folds the second
_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis")


class TimedFrame(NamedTuple):
    """An RGB frame and when it appears, in seconds from the first frame of the video."""

    time_s: float
    image: Image.Image


@dataclass(frozen=True)
class MediaLimits:
    """How much of a file is accepted; give your own to raise or lower a limit."""

    max_bytes: int = 1024**3
    """Size of the file."""
    max_pixels: int = 50_000_000
    """Width × height of a picture or of one video frame, checked before decoding; Pillow stops at 178 million."""
    max_frames: int = 20_000
    """Frames looked at of one video; a longer video is sampled more sparsely over its whole length."""
    max_packets: int = 5_000_000
    """Packets of one video: four hours at 240 frames per second are 3.5 million."""
    max_frame_side_px: int = 768
    """Longer side of a video frame; larger ones are shrunk while they are converted."""
    max_duration_s: float = 4 * 3600.0
    """Playing time of a video."""
    max_decode_s: float = 1800.0
    """Wall-clock time spent on decoding one video; waiting for whoever takes the frames does not count."""


DEFAULT_LIMITS = MediaLimits()


@contextmanager
def opened(source: str | Path | bytes, limits: MediaLimits) -> Iterator[BinaryIO]:
    """Open a regular file, or bytes, for reading; anything else is a one-line `MediaError`."""
    name = shown_name(source)
    if isinstance(source, bytes):
        check_size(len(source), name, limits)
        yield io.BytesIO(source)
        return
    if _REMOTE.match(str(source)):
        raise MediaError(f"remote addresses are not opened; download the file first: {name}")
    try:
        status = Path(source).stat()  # before opening: opening a pipe would wait for a writer
        if stat.S_ISDIR(status.st_mode):
            raise MediaError(f"{name} is a folder; give a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"{name} is a device or a pipe; give a regular file")
        check_size(status.st_size, name, limits)
        file = Path(source).open("rb")  # noqa: SIM115 - the caller's errors must not be caught here
    except FileNotFoundError as error:
        raise MediaError(f"no such file: {name}") from error
    except OSError as error:
        raise MediaError(f"cannot read {name}: {os.strerror(error.errno or 0).lower()}") from error
    except ValueError as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"not a file name: {name}") from error  # a NUL character
    with file:
        yield file


def container_of(file: BinaryIO, name: str) -> Container:
    """Say who opens a file, by its first bytes and never by its name; refuse what nobody should open."""
    file.seek(0)
    head = file.read(32)
    file.seek(0)
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")):
        return "picture"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "picture"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        raise MediaError(f"{name} is a HEIC or AVIF picture, which is not supported; save it as JPEG or PNG")
    if head[4:8] in _ISO_BOXES:
        return "mov"
    raise MediaError(f"{name} is not a picture or video that can be opened; {WANTED}")


def shown_name(source: Source) -> str:
    """Name a source in a message: one line, of readable length, and no control characters."""
    if isinstance(source, bytes):
        return "the given file"
    if isinstance(source, Image.Image):
        return "the given picture"
    name = str(source)
    name = name if name.isprintable() else ascii(name)
    return name if len(name) <= 200 else f"{name[:120]}…{name[-60:]}"


def check_size(size_bytes: int, name: str, limits: MediaLimits) -> None:
    """Refuse an empty file and one above `max_bytes`."""
    if size_bytes == 0:
        raise MediaError(f"{name} is empty (0 bytes); {WANTED}")
    if size_bytes > limits.max_bytes:
        raise MediaError(f"{name} has {size_bytes:,} bytes; at most {limits.max_bytes:,} are opened")


def check_pixels(width: int, height: int, name: str, limits: MediaLimits) -> None:
    """Refuse a picture or frame above `max_pixels`, from its header alone."""
    if width * height > limits.max_pixels:
        raise MediaError(f"{name} has {width}×{height} pixels; at most {limits.max_pixels:,} are opened")
    if width < 1 or height < 1:
        raise MediaError(f"{name} has {width}×{height} pixels; it is damaged")


class Deadline:
    """Give up on a video whose decoding takes longer than `max_decode_s`."""

    def __init__(self, name: str, limits: MediaLimits) -> None:
        self._name, self._limits = name, limits
        self._end_s = time.monotonic() + limits.max_decode_s

    def check(self) -> None:
        """Raise a `MediaError` when the time is over."""
        if time.monotonic() > self._end_s:
            raise MediaError(f"{self._name} took longer than {self._limits.max_decode_s:g} s to decode; cut it first")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock while somebody else works."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            self._end_s += time.monotonic() - began_s


def shrunk(width: int, height: int, limits: MediaLimits) -> tuple[int, int]:
    """Scale a size down until its longer side fits `max_frame_side_px`."""
    scale = min(1.0, limits.max_frame_side_px / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def check_duration(duration_s: float, name: str, limits: MediaLimits) -> None:
    """Refuse a video that plays longer than `max_duration_s`."""
    if duration_s > limits.max_duration_s:
        raise MediaError(f"{name} lasts longer than {limits.max_duration_s:g} s, the most that is opened; cut it first")
