"""A conversation that only grows: a further turn costs its own words, in pre-fusion and in the language model.

Source: the causal order of pre-fusion (LLaVA-Mini, section 4.2). Answers are not fused, so no later word changes an
earlier embedding, and the keys and values of both stay exact.
F frames · L text · d width.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from llava_mini.model.attention import record_attention
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.pre_fusion import LayerStates
from llava_mini.model.splice import check_frames, count_frames, place
from llava_mini.model.vision_prefix import VisionPrefix

Footage = Callable[[], Iterable[VisionPrefix]]
"""Gives the frames in chunks, from the beginning, as often as it is called."""


class Dialogue:
    """What is kept between the turns of one conversation about some pictures, or none.

    Of a `VisionPrefix` all is kept, and a further question costs its own words. `Footage`, for a video too long to be
    kept, is read anew with each question; the language model's keys and values are kept all the same.

    >>> dialogue = Dialogue(model, prefix)  # doctest: +SKIP
    >>> made = model.generate(**dialogue.advance(input_ids, instruction_mask))  # doctest: +SKIP
    >>> dialogue.remember(made)  # doctest: +SKIP
    """

    def __init__(self, model: LlavaMiniForConditionalGeneration, vision: VisionPrefix | Footage | None = None) -> None:
        self._model = model
        self._prefix = vision if isinstance(vision, VisionPrefix) else None
        self._footage = None if isinstance(vision, VisionPrefix) else vision
        self._tokens: list[tuple[int, bool]] = []
        """Every token so far, and whether it was fused."""
        self._embeds = torch.zeros(1, 0, model.config.text.hidden_size, device=model.device)
        self._states: list[LayerStates] = []
        self._cache = model.new_cache()
        self._answered = False

    @property
    def kept(self) -> int:
        """Tokens whose keys and values the language model keeps."""
        return int(self._cache.get_seq_length())

    @property
    def cache(self) -> Any:
        """Keys and values that the language model keeps, of the first `kept` tokens."""
        return self._cache

    @property
    def nbytes(self) -> int:
        """Bytes kept, of the pictures and of the words."""
        cached = [tensor for layer in self._cache.layers for tensor in (layer.keys, layer.values)]
        words = sum(t.nbytes for t in (self._embeds, *(part for one in self._states for part in one), *cached))
        return words + (0 if self._prefix is None else self._prefix.nbytes)

    @torch.no_grad()
    def opening(self, length: int) -> "Dialogue":
        """Return a conversation about the same pictures that begins with the first tokens of this one, kept ones only.

        Another conversation that begins with the same words computes only what differs.
        """
        made = Dialogue(self._model, self._prefix)
        length = min(length, self.kept)
        if self._footage is not None or not self._cache.layers:
            return made
        made._tokens, made._embeds, made._states = self._tokens[:length], self._embeds[:, :length], self._states
        for number, layer in enumerate(self._cache.layers):
            made._cache.update(layer.keys[:, :, :length], layer.values[:, :, :length], number)
        made._crop_states(length)
        made._answered = True
        return made

    def take_cache(self, cache: Any) -> None:
        """Keep keys and values of all tokens that `advance` was given, computed elsewhere from its embeddings."""
        self._cache = cache

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
        if self._prefix is not None:
            check_frames(count_frames(is_image, self._prefix.tokens.shape[1]), self._prefix.frames)
        fused = self._model.model.fused_words(input_ids, None if self._model.config.fuse_history else instruction_mask)
        tokens = list(zip(input_ids[0].tolist(), fused[0].tolist(), strict=True))
        same = _shared(self._tokens[: self.kept], tokens[:-1]) if self._answered else 0
        if bool(is_image[0, same:].any()):
            same = 0  # another picture changes every fused word
        self._crop(same)
        if self._footage is None:
            new = self._embed(input_ids[:, same:], fused[:, same:], is_image[:, same:])
        else:
            new = self._model.model.embed(input_ids, self._footage(), instruction_mask=fused)[:, same:]
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

    @torch.no_grad()
    def attention(self, answer: Tensor) -> Tensor:
        """Return how much the answer just remembered attended to each vision token: `(F · C²,)`.

        The share is averaged over layers, heads and the tokens of the answer; the rest, to 1, went to words. Attention
        says where a model looked, not why it answered.

        Args:
            answer: `(1, n)`, the tokens that were given to `remember`.
        """
        asked = len(self._tokens) - answer.shape[1]
        rows = self._embeds[:, asked - 1 : -1]  # the token before an answer's token is the one that chose it
        weights: list[Tensor] = []
        language_model = self._model.model.language_model
        self._cache.crop(asked - 1 - self.kept)
        with record_attention(language_model, lambda _, found: weights.append(found.float().mean(dim=(0, 1, 2)))):
            language_model(inputs_embeds=rows, past_key_values=self._cache, use_cache=True)
        image = self._model.config.image_token_id
        places = [place for place, (token, _) in enumerate(self._tokens[:asked]) if token == image]
        return torch.stack(weights).mean(dim=0)[places]

    def _embed(self, input_ids: Tensor, fused: Tensor, is_image: Tensor) -> Tensor:
        """Embed new tokens `(1, L)`; fused words read the pictures and all fused words before them."""
        core, prefix = self._model.model, self._prefix
        words: Tensor = core.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        if prefix is None:
            return words
        if core.pre_fusion is not None and bool(fused.any()):
            rows = words[:, fused[0]].expand(len(prefix.tokens), -1, -1)
            read, self._states = core.pre_fusion.read(rows, self._states or prefix.states)
            words = words.masked_scatter(fused[..., None], read.float().mean(dim=0).to(words.dtype))
        return place(words, is_image, prefix.tokens) if bool(is_image.any()) else words

    def _crop(self, length: int) -> None:
        """Keep the first tokens only."""
        if length == 0:
            self._cache, self._states = self._model.new_cache(), []
        elif length < self.kept:
            self._cache.crop(length - self.kept)
        self._crop_states(length)

    def _crop_states(self, length: int) -> None:
        """Keep pre-fusion's keys and values of the pictures and of the first tokens."""
        if self._states and self._prefix is not None:
            keep = self._prefix.states[0].keys.shape[2] + sum(fused for _, fused in self._tokens[:length])
            self._states = [LayerStates(s.keys[:, :, :keep], s.values[:, :, :keep]) for s in self._states]


def _shared(before: list[Any], now: list[Any]) -> int:
    """Return how many leading items are the same."""
    return next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
