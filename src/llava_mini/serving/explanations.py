"""Where the one token of each picture looked, which moments an answer attended to, and what was saved."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from llava_mini.assistant import Assistant
from llava_mini.errors import InputError
from llava_mini.inputs.chat import Messages
from llava_mini.inputs.media import Picture
from llava_mini.inputs.processor import count_frames, frames_of
from llava_mini.inputs.tiling import to_square
from llava_mini.model.chunking import frames_per_chunk
from llava_mini.model.dialogue import Dialogue

Cost = Callable[[int, int], dict[str, float]]
"""Text tokens and frames → TFLOPs up to the first token: `first`, `second` (pictures kept) and `all_tokens`."""
MAX_SHOWN = 64
_SIDE_PX = 256


@dataclass(frozen=True)
class Explained:
    """What can be told of a conversation without the language model."""

    inputs: Any
    """The conversation's tokens; its pictures are held no longer than they are looked at."""
    vision: Any
    """The encoded media, or a way to read them anew; None where no answer is looked at."""
    told: dict[str, Any]


@torch.no_grad()
def explain(
    assistant: Assistant,
    messages: Messages,
    cost: Cost | None,
    *,
    answered: bool = False,
    check: Callable[..., object] = lambda *_: None,
) -> Explained:
    """Tell what a conversation's pictures cost and where the compression looked.

    Args:
        answered: whether `moments` is asked next.
        check: called now and then; what it raises ends the work.

    Returns:
        Its `told` holds `vision_tokens`, `all_tokens` (of a model that keeps every patch), `tflops` and `frames`: of
        each `file`, `time_s`, `picture` (JPEG, data URI; square, as the model sees it) and `looked`, a grid of shares
        over that square that add up to 1.

    Raises:
        InputError: when there is nothing to look at.
    """
    config = assistant.model.config
    media = [part[part["type"]] for one in messages for part in one["content"] if part["type"] != "text"]
    count = sum(count_frames(item) for item in media)
    if not media:
        raise InputError("the conversation shows no picture or video; there is nothing to explain")
    if count > MAX_SHOWN:
        raise InputError(f"the conversation shows {count} pictures or frames; at most {MAX_SHOWN} are explained")
    frames: list[dict[str, Any]] = []
    size = frames_per_chunk(config, assistant.model.dtype)
    for number, item in enumerate(media):
        check()
        pictures = [frame.copy() for frame in frames_of(item)]
        times = [None] * len(pictures) if isinstance(item, Picture) else list(item.times_s)
        grids: list[Any] = [None] * len(pictures)
        if config.compression != "none":
            parts = [assistant.processor.prepare_frames(pictures[i : i + size]) for i in range(0, len(pictures), size)]
            looked = torch.cat([assistant.model.model.look(part[None].to(assistant.model.device)) for part in parts])
            side = round(looked.shape[-1] ** 0.5)
            grids = looked.float().mean(dim=1).reshape(-1, side, side).cpu().tolist()
        for picture, time_s, grid in zip(pictures, times, grids, strict=True):
            picture.thumbnail((_SIDE_PX, _SIDE_PX))
            seen = to_square(picture, assistant.processor.image_aspect_ratio)
            frames.append({"file": number, "time_s": time_s, "picture": _jpeg(seen), "looked": grid})
    inputs: Any = assistant.processor.tokenize_conversations([messages], add_generation_prompt=True)
    tokens = count * config.tokens_per_frame
    told = {
        "vision_tokens": tokens,
        "all_tokens": count * config.parts_per_frame * config.patches_per_side**2,
        "tflops": cost(int(inputs["input_ids"].shape[1]) - tokens, count) if cost is not None else None,
        "frames": frames,
    }
    return Explained(inputs, assistant.see(media, check) if answered else None, told)


@torch.no_grad()
def moments(assistant: Assistant, found: Explained, answer: str) -> list[float]:
    """Return how much an answer attended to each picture or frame; it needs the language model for itself.

    Raises:
        InputError: when question and answer do not fit into the context.
    """
    inputs = {name: value.to(assistant.model.device) for name, value in found.inputs.items()}
    said = assistant.processor.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
    length, context = inputs["input_ids"].shape[1] + said.shape[1], assistant.model.config.text.max_position_embeddings
    if length > context or not said.shape[1]:
        raise InputError(f"question and answer have {length} tokens; 1 to {context} are looked at")
    dialogue = Dialogue(assistant.model, found.vision)
    assistant.model(**dialogue.advance(inputs["input_ids"], inputs["instruction_mask"]), logits_to_keep=1)
    dialogue.remember(said.to(assistant.model.device))
    shares = dialogue.attention(said).unflatten(0, (-1, assistant.model.config.tokens_per_frame)).sum(dim=1)
    return [float(share) for share in shares]


def _jpeg(picture: Any) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
