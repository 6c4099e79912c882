"""The same question to the same weights in several programs, each ready to be run to its first token.

L text tokens · T frames · N² patches · d width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import DynamicCache

from llava_mini.errors import ConfigError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.dialogue import Dialogue
from llava_mini.profiling.forms import all_tokens_of, transformers_llava

Asked = Literal["first", "second", "video"]
Form = Literal["mini", "mini-kept", "all-tokens", "all-tokens-kept", "transformers"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True)
class Work:
    """What is asked."""

    text_tokens: int = 60
    system_tokens: int = 36
    """Of them, those before the picture."""
    frames: int = 16
    new_tokens: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.system_tokens < self.text_tokens or self.frames < 1 or self.new_tokens < 1:
            raise ConfigError(
                f"system_tokens ({self.system_tokens}) must be fewer than text_tokens ({self.text_tokens}); frames "
                f"({self.frames}) and new_tokens ({self.new_tokens}) 1 or more"
            )


def check_forms(forms: Sequence[str]) -> None:
    """Refuse forms that there are not.

    Raises:
        ConfigError: for an unknown one.
    """
    for form in forms:
        if form not in FORMS:
            raise ConfigError(f"no form is called {form!r}; there are {', '.join(FORMS)}")


State = tuple[Tensor, Any]
"""The token that was read last `(1, 1)`, and the language model's keys and values."""


@dataclass(frozen=True)
class Variant:
    """One question to one program."""

    form: Form
    asked: Asked
    model: Any
    first_token: Callable[[], State]
    kept_bytes: int = 0

    def go_on(self, state: State, count: int) -> None:
        """Read `count` more tokens, one by one."""
        token, cache = state
        for _ in range(count):
            out = self.model(input_ids=token, past_key_values=cache, use_cache=True)
            token = out.logits[:, -1:].argmax(dim=-1)


def ready_variants(
    model: LlavaMiniForConditionalGeneration, work: Work, forms: Sequence[Form], asked: Sequence[Asked]
) -> list[Variant]:
    """Return every variant, ready to run."""
    config, device = model.config, model.device
    if not config.fusion_layers or config.compression == "none":
        raise ConfigError("the model has no compression or no pre-fusion; time one that has both")
    check_forms(forms)
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(3, min(30000, config.text.vocab_size) - 1, (1, work.text_tokens), generator=generator)
    side, parts = config.vision.image_size, config.parts_per_frame
    pixels = torch.randn(1, work.frames, parts, 3, side, side, generator=generator).to(device, model.dtype)
    before, after = words[:, : work.system_tokens].to(device), words[:, work.system_tokens :].to(device)

    def ids(vision_tokens: int, token: int) -> Tensor:
        return torch.cat([before, torch.full((1, vision_tokens), token, device=device), after], dim=1)

    runs: list[Variant] = []
    everything = all_tokens_of(model) if {"all-tokens", "all-tokens-kept"} & set(forms) else None
    theirs: Any = transformers_llava(model) if "transformers" in forms else None
    for what in asked:
        frames = work.frames if what == "video" else 1
        shown = pixels[:, :frames]
        for form in forms:
            if form == "mini":
                runs.append(_mini(model, what, ids(frames * config.tokens_per_frame, config.image_token_id), shown))
                continue
            if form == "mini-kept":
                if what == "second":
                    rows = ids(frames * config.tokens_per_frame, config.image_token_id)
                    runs.append(_mini_kept(model, rows, shown, rows.shape[1] - after.shape[1]))
                continue
            every = ids(frames * config.all_tokens_per_frame, config.image_token_id)
            if form == "transformers":
                rows = ids(frames * config.all_tokens_per_frame, theirs.config.image_token_id)
                runs.append(Variant(form, what, theirs, _plain(theirs, rows, shown.flatten(0, 2))))
            elif form == "all-tokens":
                runs.append(Variant(form, what, everything, _plain(everything, every, shown)))
            elif what == "second":
                runs.append(_kept(everything, every, shown, after))
    if not runs:
        raise ConfigError(f"{', '.join(forms)} keep what was asked before; ask them second")
    return runs


def _mini(model: Any, asked: Asked, ids: Tensor, pixels: Tensor) -> Variant:
    prefix = model.encode_images(pixels)

    def first() -> State:
        return _read(model(input_ids=ids, pixel_values=pixels, use_cache=True, logits_to_keep=1))

    def second() -> State:
        return _read(model(input_ids=ids, vision_prefix=prefix, use_cache=True, logits_to_keep=1))

    return Variant("mini", asked, model, second if asked == "second" else first, prefix.nbytes)


def _mini_kept(model: Any, ids: Tensor, pixels: Tensor, stem: int) -> Variant:
    """Return a question that begins with the first `stem` tokens of another conversation about the picture."""
    before, all_fused = Dialogue(model, model.encode_images(pixels)), torch.ones_like(ids, dtype=torch.bool)
    before.remember(_ask(model, before, ids, all_fused)[0])
    begun = before.opening(stem)
    return Variant("mini-kept", "second", model, lambda: _ask(model, begun.opening(stem), ids, all_fused), begun.nbytes)


def _ask(model: Any, dialogue: Dialogue, ids: Tensor, fused: Tensor) -> State:
    given = dialogue.advance(ids, fused)
    given["inputs_embeds"] = given["inputs_embeds"][:, dialogue.kept :]
    return _read(model(**given, use_cache=True, logits_to_keep=1))


def _plain(model: Any, ids: Tensor, pixels: Tensor) -> Callable[[], State]:
    """Return a question to a model that forgets every picture."""
    return lambda: _read(model(input_ids=ids, pixel_values=pixels, use_cache=True, logits_to_keep=1))


def _kept(model: Any, ids: Tensor, pixels: Tensor, after: Tensor) -> Variant:
    """Return a question to a model that keeps the keys and values of all that stands before the question."""
    stem = ids[:, : ids.shape[1] - after.shape[1]]
    cache = DynamicCache()
    model(input_ids=stem, pixel_values=pixels, past_key_values=cache, use_cache=True, logits_to_keep=1)
    length = cache.get_seq_length()

    def second() -> State:
        grown = cache.get_seq_length() - length
        if grown:
            cache.crop(-grown)
        return _read(model(input_ids=after, past_key_values=cache, use_cache=True, logits_to_keep=1))

    return Variant("all-tokens-kept", "second", model, second, cache_bytes(cache))


def _read(out: Any) -> State:
    return out.logits[:, -1:].argmax(dim=-1), out.past_key_values


def cache_bytes(cache: Any) -> int:
    """Return the bytes of a cache's keys and values."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers if layer.keys is not None)
