"""Send a made video of any length through the model's eyes, and say how fast and in how much memory it went.

Decoding and preparing run in one thread, tower, compression and pre-fusion in another, as in a chat. Where the language
model could not hold as many vision tokens, it is not asked: what is measured ends with its input.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from llava_mini.assistant import Assistant
from llava_mini.inputs.ahead import read_ahead
from llava_mini.inputs.media import FrameSampling, open_video
from llava_mini.model.chunking import frames_per_chunk
from llava_mini.model.vision_prefix import VisionPrefix
from llava_mini.profiling.film import make_film
from llava_mini.profiling.machine import peak_resident

QUESTION = "What happens in this video, and what appears in it first?"
T = TypeVar("T")


@dataclass(frozen=True)
class VideoProfile:
    """What a video cost."""

    frames: int
    """Frames that went through."""
    decode_fps: float
    """Frames a second of the thread that decodes and prepares, while it works."""
    encode_fps: float
    """Frames a second of the thread that runs the model, while it works."""
    total_fps: float
    """Frames a second from the opened file to the language model's input; opening includes timing every packet."""
    peak_mb: float
    """Largest resident memory of the process meanwhile, in MB (10⁶ bytes), the model included."""


@torch.no_grad()
def profile_video(assistant: Assistant, frames: int, on_frames: Callable[[int], object]) -> VideoProfile:
    """Make a video of one frame a second, read it, and measure.

    Args:
        frames: how many seconds, and so frames.
        on_frames: is told how many more frames have gone through.
    """
    model, processor = assistant.model, assistant.processor
    decoding, encoding = _Clock(), _Clock()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.mp4"
        make_film(path, frames)
        with peak_resident() as peak:
            began_s = time.perf_counter()
            video = open_video(path, FrameSampling(1.0, max_frames=frames))
            content = [{"type": "video", "video": video}, {"type": "text", "text": QUESTION}]
            inputs = processor.tokenize_conversations(
                [[{"role": "user", "content": content}]], add_generation_prompt=True
            ).to(model.device)
            prepared = processor.prepare_in_chunks([video], frames_per_chunk(model.config, model.dtype))

            def encoded(chunks: Iterable[Tensor]) -> Iterator[VisionPrefix]:
                for pixels in chunks:
                    with encoding:
                        chunk = model.encode_images(pixels[None].to(model.device))
                    encoding.begin()
                    yield chunk  # is read by the words before the next is asked for
                    encoding.end()
                    on_frames(len(pixels))

            with closing(read_ahead(decoding.within(prepared))) as chunks:
                model.model.embed(inputs["input_ids"], encoded(chunks), instruction_mask=inputs["instruction_mask"])
            total_s = time.perf_counter() - began_s
    rates = (len(video) / seconds for seconds in (decoding.total_s, encoding.total_s, total_s))
    decode_fps, encode_fps, total_fps = (round(rate, 2) for rate in rates)
    return VideoProfile(len(video), decode_fps, encode_fps, total_fps, round(peak[0] / 1e6, 1))


class _Clock:
    """Add up the time that one thread works."""

    def __init__(self) -> None:
        self.total_s = 0.0

    def begin(self) -> None:
        self._began_s = time.perf_counter()

    def end(self) -> None:
        self.total_s += time.perf_counter() - self._began_s

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()

    def within(self, items: Iterable[T]) -> Iterator[T]:
        """Give the items of an iterator, and count the time that it takes to make them."""
        self.begin()
        for item in items:
            self.end()
            yield item
            self.begin()
        self.end()
