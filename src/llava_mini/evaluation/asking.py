"""Ask a batch of questions about pictures and videos that were encoded before, greedily."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from llava_mini.assistant import Assistant
from llava_mini.inputs.media import Picture, Video
from llava_mini.inputs.processor import Media
from llava_mini.model.vision_prefix import VisionPrefix

_GREY = (128, 128, 128)


def film_length(item: Media) -> int:
    """Return the frames of a video, 0 for a picture: a video of one frame is asked about in other words."""
    return 0 if isinstance(item, Picture) else len(item)


def blank(frames: int) -> Media:
    """Return a grey video of so many frames, or a grey picture for 0."""
    grey = Image.new("RGB", (256, 256), _GREY)
    return Video.of([grey] * frames) if frames else Picture(grey, "blank")


@torch.no_grad()
def answer(
    assistant: Assistant,
    questions: Sequence[str],
    shown: Sequence[Media] | None,
    prefix: VisionPrefix | None,
    max_new_tokens: int,
) -> list[str]:
    """Answer each question about what is shown with it.

    Args:
        shown: a picture or video a question; None: the words alone are asked.
        prefix: what `encode` made of them, a row each, in their order.
    """
    conversations = []
    for row, question in enumerate(questions):
        content: list[dict[str, Any]] = [{"type": "text", "text": question}]
        if shown is not None:
            one = shown[row]
            kind = "image" if isinstance(one, Picture) else "video"
            content.insert(0, {"type": kind, kind: one})
        conversations.append([{"role": "user", "content": content}])
    inputs = assistant.processor.tokenize_conversations(conversations, add_generation_prompt=True)
    inputs = {name: value.to(assistant.model.device) for name, value in inputs.items()}
    vision = {} if prefix is None else {"vision_prefix": prefix}
    made = assistant.model.generate(**inputs, **vision, max_new_tokens=max_new_tokens, do_sample=False)
    texts: list[str] = assistant.processor.tokenizer.batch_decode(
        made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return [text.strip() for text in texts]
