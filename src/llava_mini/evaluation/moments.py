"""Does attention find the moment? Videos of empty ground in which one frame shows something, beside all-empty ones."""

import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from llava_mini.assistant import Assistant
from llava_mini.data.backgrounds import draw_background
from llava_mini.data.cutouts import load_cutouts
from llava_mini.data.layouts import SIDE, SceneLibrary, cutout_sprite
from llava_mini.errors import ConfigError
from llava_mini.inputs.media import Video
from llava_mini.intervals import wilson
from llava_mini.reply import Sampling

FRAMES = 8
_QUESTION = "What is this?"
_FIRST_SEED = 30_000_000


@dataclass(frozen=True)
class Moments:
    """How often the frame that shows something got the most attention."""

    n: int
    accuracy: float
    low: float
    """Lower end of the 95 % Wilson interval of the accuracy."""
    high: float
    blank: float
    """The same share when that frame is empty too: what the place in the video alone brings; chance is 1 in 8."""


def find_moments(assistant: Assistant, sources: Path, limit: int | None = None) -> Moments:
    """Ask what is shown in videos of eight frames, of which one shows a trained cut-out.

    Raises:
        ConfigError: for fewer than one video.
    """
    count = 60 if limit is None else limit
    if count < 1:
        raise ConfigError(f"{count} videos were asked for; at least 1 is needed")
    library = SceneLibrary(load_cutouts(sources, "train"))
    found = {"shown": 0, "empty": 0}
    for index in tqdm(range(count), desc="asking", unit="video"):
        rng = random.Random(_FIRST_SEED + index)
        ground, _ = draw_background(rng, SIDE, [], calm=True)
        thing = cutout_sprite(rng, library, "new", int(0.7 * SIDE)).picture
        shown = ground.copy()
        shown.paste(thing, ((SIDE - thing.width) // 2, (SIDE - thing.height) // 2), thing)
        place = rng.randrange(FRAMES)
        for name, picture in (("shown", shown), ("empty", ground)):
            frames = [ground] * FRAMES
            frames[place] = picture
            found[name] += _most_attended(assistant, frames) == place
    low, high = wilson(found["shown"], count)
    return Moments(count, found["shown"] / count, low, high, found["empty"] / count)


def _most_attended(assistant: Assistant, frames: list[Image.Image]) -> int:
    chat = assistant.chat()
    chat.media = [Video.of(frames)]
    attention = [
        frame.attention for frame in chat.ask(_QUESTION, sampling=Sampling(max_new_tokens=12), attention=True).frames
    ]
    return attention.index(max(attention))
