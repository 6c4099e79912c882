"""One reply: how its tokens are chosen, its text as it comes, and what it cost."""

import dataclasses
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, Protocol

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from llava_mini.errors import InputError
from llava_mini.model.dialogue import Dialogue


@dataclasses.dataclass(frozen=True)
class FrameAttention:
    """How much an answer attended to one frame of a video."""

    file: str
    """The video as it was given."""
    time_s: float
    """When the frame appears, in seconds from the first."""
    attention: float
    """Share of the answer's attention, averaged over layers, heads and tokens; all frames and words together are 1."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer and what it cost."""

    text: str
    """The answer."""
    vision_tokens: int
    """Vision tokens that the language model saw: C² a picture or frame."""
    prompt_tokens: int
    """All tokens of the prompt, vision tokens included."""
    seconds_to_first_token: float
    """From the question to the first token, reading and encoding of new files included."""
    tokens_per_second: float
    """Generated tokens a second after the first; 0 for a single token."""
    model: str
    """Name of the model."""
    frames: tuple["FrameAttention", ...] = ()
    """How much the answer attended to each frame of the videos, where that was asked for."""

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are chosen."""

    max_new_tokens: int = 64
    """Longest answer in tokens."""
    temperature: float = 0.0
    """0: always the likeliest token."""
    seed: int = 0
    """Seed of the sampling; the same seed gives the same answer."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if not 0 <= self.temperature <= 10:
            raise InputError(f"temperature is {self.temperature}; it must be between 0 and 10")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed is {self.seed}; it must be between 0 and 2⁶³ − 1")


class Piece(Protocol):
    """What a server said."""

    @property
    def text(self) -> str:
        """More of the answer."""

    @property
    def tokens(self) -> int:
        """Tokens of the answer so far."""

    @property
    def ending(self) -> str | None:
        """Why nothing follows: "stop" or "length"; None while something does."""

    @property
    def choice(self) -> int:
        """Which of several answers it belongs to."""


class Served(Protocol):
    """Servers that run the language model: they are sent embeddings and give text."""

    def stream(
        self,
        embeds: torch.Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        choices: int = 1,
        at_once: bool = False,
    ) -> Generator[Piece]:
        """Answer `(L, d)` embeddings piece by piece; `at_once`: each answer in one."""

    def away(self) -> Sequence[str]:
        """Return the addresses at which no server answers now."""


class Reply:
    """An answer as it comes: iterate for pieces of text; `answer` holds all of it afterwards."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        dialogue: Dialogue,
        inputs: dict[str, Any],
        sampling: Sampling,
        *,
        model_name: str,
        started: float,
        on_end: Callable[[str], None],
        busy: threading.Lock,
        moments: Sequence[tuple[str, float] | None] = (),
        served: Served | None = None,
    ) -> None:
        self._model, self._tokenizer, self._sampling = model, tokenizer, sampling
        self._dialogue, self._inputs = dialogue, inputs
        self._model_name, self._started, self._on_end = model_name, started, on_end
        self._busy, self._moments, self._served = busy, moments, served
        self._answer: Answer | None = None

    @property
    def answer(self) -> Answer:
        """The whole answer.

        Raises:
            InputError: before the reply has been read to its end.
        """
        if self._answer is None:
            raise InputError("the reply has not been read to its end; iterate over it first")
        return self._answer

    def __iter__(self) -> Iterator[str]:
        if not self._busy.acquire(blocking=False):
            raise InputError("another question of this conversation is being answered; wait for its end")
        try:
            yield from self._pieces()
        finally:
            self._busy.release()

    def _pieces(self) -> Iterator[str]:
        # In the reader's own thread: whoever reads a long video can stop it.
        prompt = self._dialogue.advance(self._inputs["input_ids"], self._inputs["instruction_mask"])
        clock, made, pieces = _Clock(), list[torch.Tensor](), list[str]()
        with closing(self._told(prompt, clock) if self._served else self._generated(prompt, clock, made)) as source:
            for piece in source:
                if piece:
                    pieces.append(piece)
                    yield piece
        text = "".join(pieces).strip()
        self._on_end(text)
        asked = self._inputs["input_ids"]
        self._answer = Answer(
            text=text,
            vision_tokens=int((asked == self._model.config.image_token_id).sum()),
            prompt_tokens=int(asked.shape[1]),
            seconds_to_first_token=round((clock.first or time.perf_counter()) - self._started, 4),
            tokens_per_second=round(clock.rate, 2),
            model=self._model_name,
            frames=self._frames(made[0]) if any(self._moments) else (),
        )

    def _told(self, prompt: dict[str, Any], clock: "_Clock") -> Generator[str]:
        """Give what the servers say."""
        assert self._served is not None
        sampling = self._sampling
        said = self._served.stream(
            prompt["inputs_embeds"][0],
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            seed=sampling.seed,
        )
        for piece in said:
            clock.tick(piece.tokens)
            yield piece.text

    def _generated(self, prompt: dict[str, Any], clock: "_Clock", made: list[torch.Tensor]) -> Generator[str]:
        """Give what the model generates, in a thread of its own; its tokens are put into `made`."""
        streamer = _CountingStreamer(clock, self._tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop = threading.Event()
        failed: list[BaseException] = []

        def generate() -> None:
            try:
                with torch.random.fork_rng():
                    torch.manual_seed(self._sampling.seed)
                    answer = self._model.generate(
                        **prompt,
                        **_generation(self._sampling),
                        streamer=streamer,
                        stopping_criteria=StoppingCriteriaList([_Stop(stop)]),
                    )
                    self._dialogue.remember(answer)
                    made.append(answer)
            except BaseException as error:  # handed to the reader's thread below
                failed.append(error)
                streamer.end()

        worker = threading.Thread(target=generate, daemon=True)
        worker.start()
        try:
            yield from streamer
        finally:
            stop.set()
            worker.join()
        if failed:
            raise failed[0]

    def _frames(self, answer: torch.Tensor) -> tuple[FrameAttention, ...]:
        """Add up the attention to the C² tokens of each frame."""
        shares = self._dialogue.attention(answer).unflatten(0, (len(self._moments), -1)).sum(dim=1)
        return tuple(
            FrameAttention(*moment, attention=round(share, 6))
            for moment, share in zip(self._moments, shares.tolist(), strict=True)
            if moment is not None
        )


class _Clock:
    """When the first and the last token came, and how many there were."""

    first: float | None = None
    last: float | None = None
    count = 0

    def tick(self, count: int) -> None:
        """Note that so many tokens are there now."""
        if count > self.count:
            self.last = time.perf_counter()
            self.first = self.first or self.last
            self.count = count

    @property
    def rate(self) -> float:
        """Tokens a second after the first; 0 for a single one."""
        if self.first is None or self.last is None or self.count < 2 or self.last <= self.first:
            return 0.0
        return (self.count - 1) / (self.last - self.first)


class _CountingStreamer(TextIteratorStreamer):
    """A streamer that counts the tokens as they come."""

    def __init__(self, clock: _Clock, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock = clock

    def put(self, value: torch.Tensor) -> None:
        if not self.next_tokens_are_prompt:
            self._clock.tick(self._clock.count + 1)
        super().put(value)


class _Stop(StoppingCriteria):
    """Stop when the reader has gone."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._event.is_set(), device=input_ids.device)


def _generation(sampling: Sampling) -> dict[str, Any]:
    """Say all that a model's own generation settings could turn into something that is no stream of tokens."""
    plain = {"num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": False, "cache_implementation": None}
    if sampling.temperature == 0:
        return {**plain, "max_new_tokens": sampling.max_new_tokens, "do_sample": False}
    chosen = {"do_sample": True, "temperature": sampling.temperature}
    return {**plain, "max_new_tokens": sampling.max_new_tokens, **chosen}
