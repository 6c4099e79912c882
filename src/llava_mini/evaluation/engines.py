"""The same questions to the same model in several engines: how often they answer alike, how often right, how fast."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llava_mini.assistant import Assistant
from llava_mini.engines import is_llama_cpp
from llava_mini.errors import ConfigError
from llava_mini.evaluation.controls import Item
from llava_mini.evaluation.suites import BENCHMARK, find_suite
from llava_mini.inputs.media import Picture
from llava_mini.reply import Sampling


@dataclass(frozen=True)
class Run:
    """What one engine reached."""

    engine: str
    n: int
    """Questions."""
    same: float
    """Share of the answers that are those of the first engine, word for word."""
    right: float
    """Share of right answers."""
    first_token_s: float
    """Seconds to the first token, median; of most questions the picture is known already."""
    tokens_per_s: float
    """Tokens a second after the first, median of the answers that have more than one."""
    weights_mb: float
    """Of the language model and its head, 10⁶ bytes; of llama.cpp, its file's size."""


def pictures_of(suite: str, sources: Path, limit: int) -> list[tuple[Picture, Item]]:
    """Return what a suite asks about its first pictures; "embedded": the benchmark's three suites of pictures.

    Raises:
        ConfigError: when there is no such suite, or it has no pictures.
    """
    if suite == "embedded":
        chosen = [find_suite(name)(sources, limit, first) for name, _, first, _ in BENCHMARK if name != "videos"]
    else:
        chosen = [find_suite(suite)(sources, limit)]
    asked = [(one.media[item.picture], item) for one in chosen for item in one.items]
    pictures = [(shown, item) for shown, item in asked if isinstance(shown, Picture)]
    if not pictures:
        raise ConfigError(f"{suite} has no pictures; ask about embedded, scenes, unseen-scenes or photographs")
    return pictures


def compare_engines(
    load: Callable[[str], Assistant],
    engines: Sequence[str],
    asked: Sequence[tuple[Picture, Item]],
    on_answer: Callable[[], object],
) -> list[Run]:
    """Ask about pictures question by question, greedily, an engine after the other.

    Args:
        load: returns an assistant whose language model runs in an engine.
        engines: the first is what the others are compared with.
        on_answer: is called after each answer.
    """
    sampling = Sampling(max_new_tokens=16)
    made: list[Run] = []
    first: list[str] = []
    for engine in engines:
        assistant = load(engine)
        answers = []
        for shown, item in asked:
            answers.append(assistant.ask(item.question, shown.image, sampling=sampling))
            on_answer()
        texts = [answer.text for answer in answers]
        first = first or texts
        rates = [answer.tokens_per_second for answer in answers if answer.tokens_per_second]
        made.append(
            Run(
                engine,
                len(texts),
                sum(one == other for one, other in zip(texts, first, strict=True)) / len(texts),
                sum(item.is_right(text) for (_, item), text in zip(asked, texts, strict=True)) / len(texts),
                round(statistics.median(answer.seconds_to_first_token for answer in answers), 4),
                round(statistics.median(rates), 1) if rates else 0.0,
                round(_weights(assistant) / 1e6, 1),
            )
        )
    return made


def _weights(assistant: Assistant) -> int:
    """Return the bytes of language model and head; tied ones count once."""
    if is_llama_cpp(assistant.engine):
        return int(assistant.model.model.language_model.file_bytes)
    tensors: dict[int, Tensor] = {}
    for part in (assistant.model.model.language_model, assistant.model.lm_head):
        for module in part.modules():
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            own += [value for value in vars(module).values() if isinstance(value, torch.Tensor)]  # packed ones
            tensors |= {id(one): one for one in own}
    return sum(one.numel() * one.element_size() for one in tensors.values())
