"""The models that can be looked at: LLaVA-Mini in all its forms, and LLaVA-v1.5 as transformers has it.

Each shows a question to its language model as rows of embeddings with a role for each row; nothing further down knows
which model it was.
L rows · d width · V vision tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from llava_mini.assistant import Assistant
from llava_mini.devices import find_device, find_dtype
from llava_mini.errors import ModelError
from llava_mini.inputs.media import Picture
from llava_mini.inputs.processor import Media
from llava_mini.model.chunking import frames_per_chunk
from llava_mini.model.vision_prefix import VisionPrefix

INSTRUCTION, VISION, RESPONSE = range(3)
ROLES = ("instruction", "vision", "response")


@dataclass(frozen=True)
class Seen:
    """One question, and maybe an answer, as the language model sees them."""

    embeds: Tensor
    """`(1, L, d)`."""
    roles: Tensor
    """`(L,)`: INSTRUCTION, VISION or RESPONSE."""
    grid: tuple[int, int, int]
    """How the V vision tokens lie: frames, rows, columns."""


class Subject(Protocol):
    """A model that is looked at."""

    name: str
    language_model: Any
    """A decoder of Llama's kind: `layers`, `norm`, `rotary_emb`."""
    head: Any
    stops: frozenset[int]
    """Tokens that end an answer."""

    def see(self, question: str, media: Media, response: str = "") -> Seen:
        """Return what the language model sees of a question about a picture or video, and of a response."""

    def embed(self, token: int) -> Tensor:
        """Return the `(1, 1, d)` embedding of a token of an answer."""

    def text(self, tokens: Sequence[int]) -> str:
        """Return the words of an answer's tokens."""


class MiniSubject:
    """LLaVA-Mini in any of its forms."""

    def __init__(self, assistant: Assistant) -> None:
        self.assistant = assistant
        model = assistant.model
        self.name = assistant.name
        self.language_model, self.head = model.model.language_model, model.lm_head
        self.stops = _stops(model)
        self._kept: tuple[Media, VisionPrefix] | None = None

    @torch.no_grad()
    def see(self, question: str, media: Media, response: str = "") -> Seen:
        """Fuse the question with the picture, and place its vision tokens."""
        model, processor = self.assistant.model, self.assistant.processor
        kind = "image" if isinstance(media, Picture) else "video"
        content = [{"type": kind, kind: media}, {"type": "text", "text": question}]
        messages: list[Any] = [{"role": "user", "content": content}]
        if response:
            messages.append({"role": "assistant", "content": response})
        inputs = processor.tokenize_conversations([messages], add_generation_prompt=not response)
        ids = inputs["input_ids"].to(model.device)
        instruction = inputs["instruction_mask"].to(model.device).bool()
        prefix = self.encode(media)
        embeds = model.model.embed(ids, prefix, instruction_mask=instruction)
        roles = torch.where(instruction[0], INSTRUCTION, RESPONSE)
        roles = roles.masked_fill(ids[0] == model.config.image_token_id, VISION)
        side = round(prefix.tokens.shape[1] ** 0.5)
        grid = (
            (len(prefix.tokens), side, side)
            if side**2 == prefix.tokens.shape[1]
            else (1, 1, int((roles == VISION).sum()))
        )
        return Seen(embeds, roles, grid)

    def encode(self, media: Media) -> VisionPrefix:
        """Encode a picture or video; the last one is kept."""
        if self._kept is None or self._kept[0] is not media:
            self._kept = (media, self.assistant.encode(media))
        return self._kept[1]

    def look(self, media: Media) -> Tensor:
        """Return where compression looks in each frame: `(F, C², patches)`."""
        model, processor = self.assistant.model, self.assistant.processor
        chunks = processor.prepare_in_chunks([media], frames_per_chunk(model.config, model.dtype))
        return torch.cat([model.model.look(pixels[None].to(model.device)) for pixels in chunks])

    def embed(self, token: int) -> Tensor:
        """Return the `(1, 1, d)` embedding of a token of an answer, which is never fused."""
        model = self.assistant.model
        made: Tensor = model.get_input_embeddings()(torch.tensor([[token]], device=model.device))
        return made

    def text(self, tokens: Sequence[int]) -> str:
        """Return the words of an answer's tokens."""
        words: str = self.assistant.processor.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return words.strip()


class LlavaSubject:
    """LLaVA-v1.5 as transformers' `LlavaForConditionalGeneration`, with its processor."""

    def __init__(self, model: Any, processor: Any, name: str = "llava") -> None:
        self.model, self.processor, self.name = model.eval(), processor, name
        self.language_model, self.head = model.model.language_model, model.lm_head
        self.stops = _stops(model)

    @torch.no_grad()
    def see(self, question: str, media: Media, response: str = "") -> Seen:
        """Put all projected patches where the picture stands.

        Raises:
            ModelError: for a video, which this model was not made for.
        """
        if not isinstance(media, Picture):
            raise ModelError(f"{self.name} takes pictures, and {media.name} is a video")
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = self.processor(images=media.image, text=prompt, return_tensors="pt").to(self.model.device)
        ids = inputs["input_ids"]
        asked = ids.shape[1]
        if response:  # as one text: alone, the answer would begin with a token of its own where words begin with "▁"
            whole = prompt + ("" if prompt[-1:].isspace() else " ") + response
            inputs = self.processor(images=media.image, text=whole, return_tensors="pt").to(self.model.device)
            alone, ids = ids[0], inputs["input_ids"]
            asked = int((ids[0, :asked] == alone[: ids.shape[1]]).cumprod(dim=0).sum())
        found = self.model.get_image_features(pixel_values=inputs["pixel_values"].to(self.model.dtype))
        found = getattr(found, "pooler_output", found)
        features = torch.cat(list(found), dim=0) if isinstance(found, list | tuple) else found.flatten(0, -2)
        is_image = ids[0] == self.model.config.image_token_id
        if int(is_image.sum()) != len(features):
            raise ModelError(f"{self.name} has {len(features)} vision tokens for {int(is_image.sum())} places")
        embeds = self.model.get_input_embeddings()(ids.masked_fill(is_image[None], 0)).clone()
        embeds[0, is_image] = features.to(embeds)
        roles = torch.full_like(ids[0], INSTRUCTION)
        roles[asked:] = RESPONSE
        roles[is_image] = VISION
        side = round(len(features) ** 0.5)
        return Seen(embeds, roles, (1, side, side) if side**2 == len(features) else (1, 1, len(features)))

    def embed(self, token: int) -> Tensor:
        """Return the `(1, 1, d)` embedding of a token of an answer."""
        made: Tensor = self.model.get_input_embeddings()(torch.tensor([[token]], device=self.model.device))
        return made

    def text(self, tokens: Sequence[int]) -> str:
        """Return the words of an answer's tokens."""
        words: str = self.processor.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return words.strip()


def load_subject(model: str | None, *, device: str = "auto", dtype: str = "auto") -> Subject:
    """Load a model to look at: "embedded" or None, a folder in our form, or a folder of transformers' LLaVA.

    Raises:
        ModelError: when there is none, or it is of another kind.
    """
    from pathlib import Path

    from transformers import AutoConfig

    if model is None or model == "embedded":
        return MiniSubject(Assistant.load(None, device=device, dtype=dtype))
    try:
        kind = AutoConfig.from_pretrained(model).model_type if Path(model).is_dir() else ""
    except (OSError, ValueError):
        kind = ""
    if kind != "llava":
        return MiniSubject(Assistant.load(model, device=device, dtype=dtype))
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    place = find_device(device)
    precision = find_dtype(dtype, place)
    loaded = LlavaForConditionalGeneration.from_pretrained(model, dtype=precision, use_safetensors=True)
    return LlavaSubject(loaded.to(place), AutoProcessor.from_pretrained(model), model)


def _stops(model: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
