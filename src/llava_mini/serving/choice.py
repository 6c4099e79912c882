"""One answer in the making: which token comes next, what text it is so far, and when it ends."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor

from llava_mini.errors import InputError
from llava_mini.serving.token_bytes import token_bytes

Ending = Literal["stop", "length"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the tokens of an answer are chosen, and where it ends."""

    max_tokens: int | None = None
    """Longest answer in tokens; None: as the server says."""
    temperature: float = 0.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens whose probabilities add up to this are drawn from."""
    seed: int | None = None
    """The same seed gives the same answer; None draws one."""
    stop: tuple[str, ...] = ()
    """Texts before which the answer ends."""
    choices: int = 1
    """Answers to the same question."""
    top_logprobs: int | None = None
    """How many likeliest tokens are told beside each one; None: no log-probabilities at all."""

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if not 0 <= self.temperature <= 2:
            raise InputError(f"temperature is {self.temperature}; it must be between 0 and 2")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if any(not text for text in self.stop):
            raise InputError("stop holds an empty text; leave it out")


@dataclasses.dataclass(frozen=True)
class TokenLogprob:
    """A token and the logarithm of its probability, before temperature and top_p."""

    token: str
    data: bytes
    """Its bytes; those of a part of a character are no text."""
    logprob: float
    top: tuple["TokenLogprob", ...] = ()
    """The likeliest tokens in its place."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """What one more token gave."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    ending: Ending | None = None
    """Why nothing follows; None while something does."""


class Choice:
    """One row of the running batch: takes logits, gives pieces of text."""

    def __init__(self, tokenizer: Any, settings: Settings, most: int, endings: Sequence[int], number: int = 0) -> None:
        """Begin an answer.

        Args:
            most: tokens that are made at most.
            endings: tokens that end an answer.
            number: which of several answers it is; each has its own dice.
        """
        self._tokenizer, self._settings, self._most, self._endings = tokenizer, settings, most, frozenset(endings)
        self._dice = torch.Generator()
        if settings.seed is None:
            self._dice.seed()
        else:
            self._dice.manual_seed((settings.seed + number) % 2**63)
        self._stream = DecodeStream(skip_special_tokens=True)
        self._decoded_so_far = 0
        self._began = False
        self._held = ""
        """Text that may yet turn out to be the beginning of a stop text."""
        self._told: list[TokenLogprob] = []
        self.tokens: list[int] = []
        self.ended = False

    @property
    def left(self) -> int:
        """Tokens that it may still take."""
        return self._most - len(self.tokens)

    def take(self, logits: Tensor) -> Piece:
        """Choose the next token from `(V,)` logits and return the text that is now certain."""
        token = self._choose(logits)
        self.tokens.append(token)
        ending: Ending | None = None
        if token in self._endings:
            ending = "stop"
        elif len(self.tokens) >= self._most:
            ending = "length"
        if token not in self._endings and self._settings.top_logprobs is not None:
            self._told.append(self._logprob(logits, token))
        text = self._decoded(token, last=ending is not None)
        self._held += text if self._began else text.lstrip()
        self._began = self._began or bool(self._held)
        cut = min((place for text in self._settings.stop if (place := self._held.find(text)) >= 0), default=None)
        if cut is not None:
            self._held, ending = self._held[:cut], "stop"
        certain = len(self._held) if ending else len(self._held) - self._uncertain()
        text, self._held = self._held[:certain], self._held[certain:]
        self.ended = ending is not None
        if not text and not ending:
            return Piece("")
        told, self._told = tuple(self._told), []
        return Piece(text, told, ending)

    def _decoded(self, token: int, *, last: bool) -> str:
        """Return the text that one more token completes; the last one completes what is no whole character, too."""
        text = "" if token in self._endings else self._stream.step(self._tokenizer._tokenizer, token) or ""
        if last:
            kept = [made for made in self.tokens if made not in self._endings]
            text = self._tokenizer.decode(kept, skip_special_tokens=True)[self._decoded_so_far :]
        self._decoded_so_far += len(text)
        return text

    def _choose(self, logits: Tensor) -> int:
        settings = self._settings
        if settings.temperature == 0:
            return int(logits.argmax())
        scores = logits.double().cpu()
        # The likeliest becomes 0 before the division: a tiny temperature makes the others -inf and nothing NaN.
        chances = ((scores - scores.max()) / settings.temperature).softmax(dim=-1)
        if settings.top_p < 1:
            ordered, places = chances.sort(descending=True)
            before = ordered.cumsum(dim=-1) - ordered
            chances = chances.index_fill(0, places[before >= settings.top_p], 0.0)
        return int(torch.multinomial(chances, 1, generator=self._dice))

    def _logprob(self, logits: Tensor, token: int) -> TokenLogprob:
        chances = logits.float().log_softmax(dim=-1)
        likeliest = chances.topk(min(self._settings.top_logprobs or 0, len(chances)))
        top = tuple(self._told_of(place, float(chances[place])) for place in likeliest.indices.tolist())
        return dataclasses.replace(self._told_of(token, float(chances[token])), top=top)

    def _told_of(self, token: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(self._tokenizer.decode([token]), token_bytes(self._tokenizer, token), _finite(logprob))

    def _uncertain(self) -> int:
        """Return how many of the last characters may be the beginning of a stop text."""
        lengths = [n for stop in self._settings.stop for n in range(1, len(stop)) if self._held.endswith(stop[:n])]
        return max(lengths, default=0)


def _finite(value: float) -> float:
    """JSON knows no infinity: a token without any chance is told as very unlikely, as OpenAI does."""
    return value if math.isfinite(value) else -9999.0
