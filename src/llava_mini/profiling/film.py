"""Make a film of any length: a minute is drawn and encoded, then its packets are repeated."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT, FPS, KEYFRAME_EVERY = 640, 360, 30, 60
_MINUTE_S = 60
_COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")


def make_film(path: Path, seconds: int) -> None:
    """Write an H.264 film in an MP4 file: a disc and a square that move over a grained ground.

    Args:
        seconds: 1 or more; after a minute it begins again.
    """
    minute = path.with_name(f"{path.stem}-minute.mp4")
    _draw(minute, min(seconds, _MINUTE_S))
    with av.open(str(path), "w", format="mp4") as out:
        target = None
        for start in range(0, seconds, _MINUTE_S):
            with av.open(str(minute)) as source:
                stream = source.streams.video[0]
                target = target or out.add_stream_from_template(stream)
                shift = int(start / stream.time_base)
                end = int((seconds - start) / stream.time_base)
                for packet in source.demux(stream):
                    if packet.dts is not None and packet.pts < end:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = target
                        out.mux(packet)
    minute.unlink()


def _draw(path: Path, seconds: int) -> None:
    grain = np.random.default_rng(0).integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"g": str(KEYFRAME_EVERY), "preset": "veryfast", "bf": "2"}
        for number in range(seconds * FPS):
            picture = Image.fromarray(np.roll(grain, number, axis=1))
            draw = ImageDraw.Draw(picture)
            colour, x = _COLOURS[number // FPS // 5 % len(_COLOURS)], 40 + number * 3 % (WIDTH - 160)
            draw.ellipse((x, 60, x + 120, 180), fill=colour)
            draw.rectangle((WIDTH - x - 60, 220, WIDTH - x, 280), fill="white")
            out.mux(stream.encode(av.VideoFrame.from_image(picture)))
        out.mux(stream.encode())
