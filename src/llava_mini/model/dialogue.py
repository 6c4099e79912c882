"""A conversation that only grows: a further turn costs its own words, in pre-fusion and in the language model.

Source: the causal order of pre-fusion (LLaVA-Mini, section 4.2). Answers are not fused, so no later word changes an
earlier embedding, and the keys and values of both stay exact.
F frames · L text · d width.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.pre_fusion import LayerStates
from llava_mini.model.splice import count_frames, place
from llava_mini.model.vision_prefix import VisionPrefix


class Dialogue:
    """What is kept between the turns of one conversation about some pictures, or none.

    >>> dialogue = Dialogue(model, prefix)  # doctest: +SKIP
    >>> made = model.generate(**dialogue.advance(input_ids, instruction_mask))  # doctest: +SKIP
    >>> dialogue.remember(made)  # doctest: +SKIP
    """

    def __init__(self, model: LlavaMiniForConditionalGeneration, prefix: VisionPrefix | None = None) -> None:
        self._model, self._prefix = model, prefix
        self._tokens: list[tuple[int, bool]] = []
        """Every token so far, and whether it was fused."""
        self._embeds = torch.zeros(1, 0, model.config.text.hidden_size, device=model.device)
        self._states: list[LayerStates] = []
        self._cache = DynamicCache()
        self._answered = False

    @property
    def kept(self) -> int:
        """Tokens whose keys and values the language model keeps."""
        return int(self._cache.get_seq_length())

    @torch.no_grad()
    def advance(self, input_ids: Tensor, instruction_mask: Tensor) -> dict[str, Any]:
        """Return what `generate` needs to answer the whole conversation; only what is new is computed.

        Args:
            input_ids: `(1, L)`, all turns so far, rendered anew; what they share with the last call is not run again.
            instruction_mask: `(1, L)`, false for answers.

        Raises:
            InputError: when image tokens and pictures do not fit together.
        """
        is_image = input_ids == self._model.config.image_token_id
        fused = self._model.model.fused_words(input_ids, None if self._model.config.fuse_history else instruction_mask)
        tokens = list(zip(input_ids[0].tolist(), fused[0].tolist(), strict=True))
        same = _shared(self._tokens[: self.kept], tokens[:-1]) if self._answered else 0
        if bool(is_image[0, same:].any()):
            same = 0  # another picture changes every fused word
        self._crop(same)
        new = self._embed(input_ids[:, same:], fused[:, same:], is_image[:, same:])
        self._embeds = torch.cat([self._embeds[:, :same].to(new), new], dim=1)
        self._tokens, self._answered = tokens, False
        return {
            "inputs_embeds": self._embeds,
            "attention_mask": torch.ones_like(input_ids),
            "past_key_values": self._cache,
        }

    @torch.no_grad()
    def remember(self, answer: Tensor) -> None:
        """Take over the `(1, n)` tokens that `generate` made; without this call the next turn starts anew."""
        self._tokens += [(token, False) for token in answer[0].tolist()]
        raw = self._model.get_input_embeddings()(answer)
        self._embeds = torch.cat([self._embeds, raw.to(self._embeds)], dim=1)
        self._answered = True

    def _embed(self, input_ids: Tensor, fused: Tensor, is_image: Tensor) -> Tensor:
        """Embed new tokens `(1, L)`; fused words read the pictures and all fused words before them."""
        core, prefix = self._model.model, self._prefix
        words: Tensor = core.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        if prefix is None:
            return words
        if core.pre_fusion is not None and bool(fused.any()):
            rows = words[:, fused[0]].expand(prefix.frames, -1, -1)
            read, self._states = core.pre_fusion.read(rows, self._states or prefix.states)
            words = words.masked_scatter(fused[..., None], read.float().mean(dim=0).to(words.dtype))
        frames = count_frames(is_image, prefix.tokens.shape[2], prefix.frames)
        return place(words, is_image, prefix.tokens, frames)

    def _crop(self, length: int) -> None:
        """Keep the first tokens only."""
        if length == 0:
            self._cache, self._states = DynamicCache(), []
        elif length < self.kept:
            self._cache.crop(length - self.kept)
        if self._states and self._prefix is not None:
            keep = self._prefix.states[0].keys.shape[2] + sum(fused for _, fused in self._tokens[:length])
            self._states = [LayerStates(s.keys[:, :, :keep], s.values[:, :, :keep]) for s in self._states]


def _shared(before: list[Any], now: list[Any]) -> int:
    """Return how many leading items are the same."""
    return next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
