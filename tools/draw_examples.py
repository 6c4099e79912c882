"""Draw the bundled example pictures and the example video: `python tools/draw_examples.py [folder]`.

Licence: the pictures and the video in src/llava_mini/examples are drawn by this file, ours alone, Apache-2.0.

Coordinates are in pixels of the finished 512-pixel picture; everything is drawn SCALE times larger and shrunk, which
smooths the edges.
"""

import math
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

SIDE_PX = 512
SCALE = 4
VIDEO_SIDE_PX, VIDEO_FPS, VIDEO_S = 256, 8, 4

Point = tuple[float, float]
Colour = str


class Sheet:
    """A square sheet of paper with a few shapes to put on it."""

    def __init__(self, paper: Colour, side_px: int = SIDE_PX) -> None:
        self.side_px = side_px
        self._image = Image.new("RGB", (side_px * SCALE, side_px * SCALE), paper)
        self._draw = ImageDraw.Draw(self._image)

    def ellipse(self, center: Point, radius_x: float, radius_y: float, colour: Colour) -> None:
        """Fill an ellipse."""
        (x, y) = center
        box = [(x - radius_x) * SCALE, (y - radius_y) * SCALE, (x + radius_x) * SCALE, (y + radius_y) * SCALE]
        self._draw.ellipse(box, fill=colour)

    def circle(self, center: Point, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        self.ellipse(center, radius, radius, colour)

    def box(self, upper_left: Point, lower_right: Point, colour: Colour, *, round_px: float = 0) -> None:
        """Fill a rectangle, its corners rounded by `round_px`."""
        xy = [v * SCALE for v in (*upper_left, *lower_right)]
        self._draw.rounded_rectangle(xy, radius=round_px * SCALE, fill=colour)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a polygon."""
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=colour)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw a line with round ends and joints."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(scaled, fill=colour, width=round(width * SCALE), joint="curve")
        for point in (points[0], points[-1]):
            self.circle(point, width / 2, colour)

    def finished(self) -> Image.Image:
        """Shrink the sheet to its size."""
        return self._image.resize((self.side_px, self.side_px), Image.Resampling.BOX)


def shapes() -> Image.Image:
    """Draw a red circle on the left and a blue square on the right, on white."""
    sheet = Sheet("#ffffff")
    sheet.circle((142, 256), 98, "#e02424")
    sheet.box((274, 162), (462, 350), "#1f5fe0")
    return sheet.finished()


def counting() -> Image.Image:
    """Draw three green stars on yellow."""
    sheet = Sheet("#ffd93b")
    for center in ((150, 168), (362, 168), (256, 354)):
        sheet.polygon(_star(center, 92), "#178a3c")
    return sheet.finished()


def house() -> Image.Image:
    """Draw a house with a red roof, a tree on its right and the sun on its left, under a blue sky."""
    sheet = Sheet("#9fd8f7")
    _sun(sheet, (88, 92), 40)
    for x, y in ((300, 82), (428, 128)):
        _cloud(sheet, (x, y))
    sheet.ellipse((130, 452), 330, 92, "#7cc35a")
    sheet.ellipse((430, 470), 300, 96, "#69b34a")
    sheet.box((0, 430), (512, 512), "#69b34a")
    sheet.box((252, 160), (284, 238), "#9b4a3a")  # chimney
    sheet.box((246, 152), (290, 168), "#7d382b", round_px=3)
    sheet.box((96, 254), (312, 432), "#fff1d6")
    sheet.polygon([(70, 262), (204, 146), (338, 262)], "#d23a2e")
    sheet.box((182, 330), (236, 432), "#8a5a33", round_px=4)
    sheet.circle((226, 384), 4, "#ffd93b")
    for x in (116, 250):
        sheet.box((x, 292), (x + 48, 340), "#ffffff", round_px=3)
        sheet.box((x + 5, 297), (x + 43, 335), "#6fb7e8")
        sheet.box((x + 22, 294), (x + 26, 338), "#ffffff")
        sheet.box((x + 2, 314), (x + 46, 318), "#ffffff")
    sheet.polygon([(176, 512), (186, 432), (232, 432), (262, 512)], "#e4cfa4")  # path
    sheet.polygon([(407, 436), (415, 330), (433, 330), (441, 436)], "#7a4b27")
    for center, radius in (((424, 246), 56), ((392, 288), 42), ((458, 288), 42), ((424, 304), 46)):
        sheet.circle(center, radius, "#2f8f3f")
    sheet.circle((412, 238), 32, "#42a552")
    return sheet.finished()


def cat() -> Image.Image:
    """Draw the face of an orange cat on light blue."""
    sheet = Sheet("#cfe8f5")
    fur, dark, inner, ink = "#f2963a", "#d8741c", "#f7b7a3", "#33261d"
    sheet.ellipse((256, 560), 176, 170, dark)  # shoulders
    for side in (-1, 1):
        ear = [(256 + side * x, y) for x, y in ((166, 80), (176, 260), (44, 156))]
        sheet.polygon(ear, fur)
        sheet.polygon([(256 + side * x, y) for x, y in ((148, 122), (154, 220), (78, 162))], inner)
    sheet.ellipse((256, 290), 182, 158, fur)
    for x, length in ((214, 52), (256, 70), (298, 52)):  # stripes on the forehead
        sheet.polygon([(x - 12, 140), (x + 12, 140), (256 + (x - 256) * 0.8, 140 + length)], dark)
    for side in (-1, 1):
        for y in (276, 316):  # stripes on the cheeks
            edge = 256 + side * math.sqrt(max(0.0, 1 - ((y - 290) / 158) ** 2)) * 181
            sheet.polygon([(edge, y - 10), (edge, y + 10), (edge - side * 44, y + 3)], dark)
        eye = (256 + side * 76, 274)
        sheet.ellipse(eye, 38, 40, "#fdfdf6")
        sheet.ellipse(eye, 30, 34, "#7cbf4b")
        sheet.ellipse(eye, 12, 30, ink)
        sheet.circle((eye[0] + 8, eye[1] - 14), 7, "#ffffff")
    for side in (-1, 1):
        sheet.ellipse((256 + side * 36, 372), 48, 38, "#fde6cd")
    sheet.ellipse((256, 398), 38, 30, "#fde6cd")
    sheet.polygon([(232, 334), (280, 334), (256, 360)], "#e0607a")
    sheet.ellipse((256, 336), 24, 9, "#e0607a")
    sheet.line([(256, 356), (256, 376)], 5, ink)
    for side in (-1, 1):
        mouth = [(256 + side * (22 - 22 * math.cos(t)), 376 + 18 * math.sin(t)) for t in _steps(0, math.pi * 0.9)]
        sheet.line(mouth, 5, ink)
        for start, end in ((360, 338), (374, 372), (388, 408)):
            sheet.line([(256 + side * 72, start), (256 + side * 196, end)], 3, "#6b5646")
    return sheet.finished()


def apple() -> Image.Image:
    """Draw a red apple with a green leaf on a wooden table."""
    sheet = Sheet("#f6ead7")
    sheet.box((0, 380), (512, 512), "#b9824f")
    sheet.box((0, 380), (512, 390), "#d29c66")
    for y in (424, 470):
        sheet.box((0, y), (512, y + 3), "#a87242")
    sheet.ellipse((256, 432), 136, 22, "#8d5d33")
    body = [_apple_edge(t) for t in _steps(0, 2 * math.pi, 240)]
    sheet.polygon(body, "#d3222a")
    sheet.ellipse((256, 196), 30, 9, "#a3161f")
    shine = [(170 + 18 * math.cos(t) - 10 * math.sin(t), 250 + 40 * math.sin(t)) for t in _steps(0, 2 * math.pi, 60)]
    sheet.polygon(shine, "#f0696c")
    sheet.line([(256, 196), (257, 170), (262, 146), (272, 122)], 13, "#6b4424")
    upper = [(266 + 116 * t, 152 - 42 * t - 52 * math.sin(math.pi * t)) for t in _steps(0, 1)]
    lower = [(266 + 116 * t, 152 - 42 * t + 30 * math.sin(math.pi * t)) for t in _steps(1, 0)]
    sheet.polygon(upper + lower, "#4aa544")
    sheet.line([(270, 150), (366, 116)], 4, "#2f7d31")
    return sheet.finished()


def video_frames() -> list[Image.Image]:
    """Draw a red ball that rolls from left to right; in the last quarter a blue square stands there too."""
    frames = []
    total = VIDEO_FPS * VIDEO_S
    for index in range(total):
        sheet = Sheet("#ffffff", VIDEO_SIDE_PX)
        sheet.box((0, 196), (VIDEO_SIDE_PX, VIDEO_SIDE_PX), "#dfe5ea")
        rolled = min(1.0, index / (total * 5 / 8))
        eased = rolled * rolled * (3 - 2 * rolled)
        x = 44 + 168 * eased
        sheet.ellipse((x, 198), 34, 6, "#bcc5cd")
        sheet.circle((x, 160), 38, "#e02424")
        spin = 168 * eased / 38 - 2.2
        sheet.circle((x + 20 * math.cos(spin), 160 + 20 * math.sin(spin)), 8, "#f59a9a")
        if index >= total * 11 / 16:
            sheet.box((42, 126), (112, 198), "#1f5fe0")
        frames.append(sheet.finished())
    return frames


PICTURES: dict[str, Callable[[], Image.Image]] = {
    "shapes.png": shapes,
    "counting.png": counting,
    "house.png": house,
    "cat.png": cat,
    "apple.png": apple,
}


def write_all(folder: Path) -> None:
    """Draw everything into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        draw().quantize(128, dither=Image.Dither.NONE).save(folder / name, optimize=True)
    write_video(video_frames(), folder / "video.mp4")


def write_video(frames: list[Image.Image], path: Path) -> None:
    """Encode frames as an mp4 that every browser plays; one thread, so that the bytes repeat."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(VIDEO_FPS))
        stream.width = stream.height = VIDEO_SIDE_PX
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "slow", "threads": "1"}
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), "rgb24")))
        out.mux(stream.encode())


def _star(center: Point, radius: float) -> list[Point]:
    """Place the ten corners of a star, one tip up."""
    corners = []
    for corner in range(10):
        reach = radius if corner % 2 == 0 else radius * 0.42
        angle = math.pi * (corner / 5 - 0.5)
        corners.append((center[0] + reach * math.cos(angle), center[1] + reach * math.sin(angle)))
    return corners


def _sun(sheet: Sheet, center: Point, radius: float) -> None:
    """Draw a sun with twelve rays."""
    for ray in range(12):
        c, s = math.cos(ray * math.pi / 6), math.sin(ray * math.pi / 6)
        near, far = radius * 1.25, radius * 1.6
        ends = [(center[0] + r * c, center[1] + r * s) for r in (near, far)]
        sheet.line(ends, 7, "#ffc928")
    sheet.circle(center, radius, "#ffc928")


def _cloud(sheet: Sheet, center: Point) -> None:
    """Draw a small white cloud."""
    x, y = center
    for dx, dy, radius in ((-32, 6, 18), (-8, -8, 26), (22, 0, 22)):
        sheet.circle((x + dx, y + dy), radius, "#ffffff")
    sheet.box((x - 48, y + 2), (x + 44, y + 24), "#ffffff", round_px=11)


def _apple_edge(angle: float) -> Point:
    """Go round an apple: a circle with a dip where the stem is and a shallow one below."""
    top = math.exp(-(((angle - 1.5 * math.pi) / 0.42) ** 2))
    bottom = math.exp(-(((angle - 0.5 * math.pi) / 0.30) ** 2))
    narrow = 1 - 0.06 * (1 + math.sin(angle))
    reach = 134 * (1 - 0.20 * top - 0.06 * bottom)
    return 256 + 1.12 * narrow * reach * math.cos(angle), 304 + reach * math.sin(angle)


def _steps(start: float, end: float, count: int = 40) -> list[float]:
    """Divide a range evenly, both ends included."""
    return [start + (end - start) * i / count for i in range(count + 1)]


if __name__ == "__main__":
    write_all(Path(sys.argv[1] if len(sys.argv) > 1 else "src/llava_mini/examples"))
