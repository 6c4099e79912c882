"""What LLaVA-Mini does before its language model: where the compression query looks, and what pre-fusion adds to words.

Source: LLaVA-Mini, sections 4.1, 4.2 and 5.4 (what compression attends to).
F frames · M fusion layers · H heads · W words · L text tokens · N² patches.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeGuard

import torch
from torch import Tensor

from llava_mini.analysis.attention import rounded
from llava_mini.analysis.subjects import MiniSubject, Subject
from llava_mini.errors import ModelError
from llava_mini.inputs.media import Picture
from llava_mini.inputs.processor import Media
from llava_mini.model.attention import record_attention


@dataclass(frozen=True)
class Reading:
    """How a question was read into a picture."""

    words: list[str]
    """The tokens of the question."""
    compression: Tensor
    """`(F, rows, columns)`: where the compression queries looked, the mean over C² of them; each frame sums to 1."""
    attention: Tensor
    """`(M, W, rows, columns)`: attention of each word to each patch by fusion layer, the mean over heads and frames."""
    change: Tensor
    """`(W,)`: how far each word's embedding moved, in lengths of the embedding."""
    cosine: Tensor
    """`(W,)`: cosine between a word's embedding before and after."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, for JSON."""
        named = {"compression": self.compression, "attention": self.attention, "change": self.change}
        numbers = {name: rounded(value) for name, value in (named | {"cosine": self.cosine}).items()}
        return {"words": self.words, **numbers}


def can_read(subject: Subject) -> TypeGuard[MiniSubject]:
    """Whether a model has what `read` looks at: compression and pre-fusion, of whole pictures."""
    if not isinstance(subject, MiniSubject):
        return False
    config = subject.assistant.model.config
    return config.fusion_layers > 0 and config.compression != "none" and config.tiles == 1


@torch.no_grad()
def read(subject: MiniSubject, question: str, media: Media) -> Reading:
    """Look at compression and pre-fusion while a question reads a picture or video.

    Raises:
        ModelError: for a model without compression or pre-fusion, and for one that cuts pictures into tiles.
    """
    assistant = subject.assistant
    model, processor, config = assistant.model, assistant.processor, assistant.model.config
    if not config.fusion_layers or config.compression == "none":
        raise ModelError(f"{assistant.name} has no compression or no pre-fusion: there is nothing to look at")
    if config.tiles > 1:
        raise ModelError(f"{assistant.name} cuts pictures into tiles, which is not drawn yet; use one without --hd")
    kind = "image" if isinstance(media, Picture) else "video"
    content = [{"type": kind, kind: media}, {"type": "text", "text": question}]
    inputs: Any = processor.tokenize_conversations([[{"role": "user", "content": content}]], add_generation_prompt=True)
    ids = inputs["input_ids"].to(model.device)
    fused = model.model.fused_words(ids, inputs["instruction_mask"].to(model.device))[0]
    prefix, looked = subject.encode(media), subject.look(media)
    before = model.get_input_embeddings()(ids[:, fused])
    side = config.patches_per_side
    found: dict[int, Tensor] = {}

    def keep(layer: int, weights: Tensor) -> None:  # (F, H, W, V + W): patches stand first
        found[layer] = weights[..., : side**2].float().mean(dim=(0, 1))

    rows = before.expand(len(prefix.tokens), -1, -1)
    every = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
    with record_attention(model.model.pre_fusion.decoder, keep):
        after = model.model.pre_fusion.fuse(rows, every, prefix.states).float().mean(dim=0)
    first = before[0].float()
    texts = [processor.tokenizer.decode([token]) for token in ids[0, fused].tolist()]
    asked = _asked(texts, question)
    attention = torch.stack([found[layer] for layer in sorted(found)]).unflatten(-1, (side, side))
    return Reading(
        texts[asked],
        looked.float().mean(dim=1).reshape(-1, side, side).cpu(),
        attention[:, asked].cpu(),
        ((after - first).norm(dim=-1) / first.norm(dim=-1))[asked].cpu(),
        torch.nn.functional.cosine_similarity(after, first, dim=-1)[asked].cpu(),
    )


def _asked(words: list[str], question: str) -> slice:
    """Return which of the fused words are the question's, without those of the chat template."""
    start = "".join(words).rfind(question.strip())
    if start < 0:
        return slice(None)
    ends = list(accumulate(len(word) for word in words))
    first = next(place for place, end in enumerate(ends) if end > start)
    last = next(place for place, end in enumerate(ends) if end >= start + len(question.strip()))
    return slice(first, last + 1)
