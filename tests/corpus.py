"""Build pictures and videos of every kind that users and attackers hand in, small and without a network.

Pictures are left red and right blue where the format allows, so that a test can tell colour and orientation.
"""

import io
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from PIL import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
Colour = tuple[int, int, int]
FILM_LENGTH, FILM_GROUP = 96, 12  # frames of `moving_film`, and from one keyframe to the next


def red_blue(width: int = 64, height: int = 32) -> Image.Image:
    """Draw a picture whose left half is red and whose right half is blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def encoded(image: Image.Image, picture_format: str, **options: object) -> bytes:
    """Encode a picture in memory."""
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return buffer.getvalue()


def png_bomb(side_px: int = 50_000) -> bytes:
    """Write a PNG whose header claims a huge picture of zeros."""
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    zeros = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zeros) + _chunk(b"IEND", b"")


def grey_16_bit() -> bytes:
    """Write a 16-bit PNG: black, half grey and white columns."""
    values = np.repeat(np.array([[0, 32768, 65535]], np.uint16), 4, axis=0)
    return encoded(Image.fromarray(values), "PNG")


def rgb_16_bit() -> bytes:
    """Write a PNG of 16 bits a channel: one pixel of half red, a quarter green and no blue."""
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\x00" + struct.pack(">HHH", 0x8080, 0x4040, 0))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def palette_with_transparency() -> bytes:
    """Write a palette PNG: red on the left, on the right an entry that is black but fully transparent."""
    image = Image.new("P", (8, 4), 0)
    image.putpalette([*RED, 0, 0, 0])
    image.paste(1, (4, 0, 8, 4))
    return encoded(image, "PNG", transparency=1)


def turned_by_exif(orientation: int) -> bytes:
    """Write a JPEG of red left and blue right whose EXIF data asks for a turn."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(red_blue(), "JPEG", exif=exif, quality=95)


def animation(colours: Sequence[Colour], duration_ms: int, picture_format: str = "GIF") -> bytes:
    """Write an animated picture, one frame a colour."""
    frames = [Image.new("RGB", (32, 32), colour) for colour in colours]
    lossless = {"lossless": True} if picture_format == "WEBP" else {}
    more = {"save_all": True, "append_images": frames[1:], "duration": duration_ms, "loop": 0}
    return encoded(frames[0], picture_format, **more, **lossless)


def video(
    colours: Sequence[Colour],
    fps: Fraction | int = 8,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    size: tuple[int, int] = (64, 48),
    times_s: Sequence[float] | None = None,
    **options: str,
) -> bytes:
    """Encode one plain frame a colour, at a steady rate or at `times_s`; `options` go to the container."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=options) as out:
        stream = out.add_stream(codec, rate=Fraction(fps))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        tick_s = Fraction(1, 1000) if times_s else 1 / Fraction(fps)
        stream.codec_context.time_base = tick_s
        stream.options = {"g": "4", "threads": "1"} | ({"preset": "ultrafast"} if codec == "libx264" else {})
        for index, colour in enumerate(colours):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), colour, np.uint8), "rgb24")
            frame.pts = index if times_s is None else round(times_s[index] * 1000)
            frame.time_base = tick_s
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()


def sound_only(container: str = "mp4") -> bytes:
    """Encode half a second of silence and no picture."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()


def turned_video(colours_left_right: tuple[Colour, Colour]) -> bytes:
    """Write an mp4 as a phone held upright does: pixels lie on their side, the track's matrix turns them clockwise."""
    left, right = colours_left_right
    buffer = io.BytesIO()
    pixels = np.full((48, 64, 3), left, np.uint8)
    pixels[:, 32:] = right
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(8):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        out.mux(stream.encode())
    data = bytearray(buffer.getvalue())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0: flags, times, id, length, layer and volume come first
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    return bytes(data)


def broken_in_the_middle(data: bytes, first: int, last: int) -> bytes:
    """Overwrite a stretch of a file with 0xFF."""
    return data[:first] + b"\xff" * (last - first) + data[last:]


def moving_film(
    container: str = "mp4", codec: str = "libx264", *, live: bool = False, open_groups: bool = False
) -> bytes:
    """Twelve seconds of noise that moves, 8 frames a second, with frames that are stored before those they follow."""
    buffer = io.BytesIO()
    options = {"live": "1"} if live else {}
    with av.open(buffer, "w", format=container, options=options) as out:
        stream = out.add_stream(codec, rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"g": str(FILM_GROUP), "threads": "1"}
        if codec == "libx264":
            groups = f"scenecut=0:open-gop={int(open_groups)}"
            stream.options |= {"bf": "3", "b-pyramid": "normal", "x264-params": groups}
        for index in range(FILM_LENGTH):
            pixels = np.random.default_rng(index // 5).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(pixels, 3 * index, axis=1), "rgb24")))
        out.mux(stream.encode())
    return buffer.getvalue()


def damaged_film() -> bytes:
    """A film of which two frames in three of one group cannot be decoded."""
    group = range(FILM_GROUP * 2 + 1, FILM_GROUP * 3)
    return with_broken_packets(moving_film("matroska", "libvpx"), [index for index in group if index % 3])


def with_broken_packets(data: bytes, broken: Sequence[int]) -> bytes:
    """Overwrite the contents of some packets."""
    with av.open(io.BytesIO(data)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    made = bytearray(data)
    for index in broken:
        at = data.index(packets[index])
        made[at : at + len(packets[index])] = b"\x9d" * len(packets[index])
    return bytes(made)


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Write one PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
