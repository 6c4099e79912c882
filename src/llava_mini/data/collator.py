"""Examples → tensors: what is supervised, which picture belongs to which words, and packing.

S samples · L tokens of the longest · R frames of all samples, sample after sample · P parts · B packed rows.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llava_mini.data.examples import Example
from llava_mini.errors import DataError, LlavaMiniError
from llava_mini.inputs.chat import ChatTokens
from llava_mini.inputs.processor import LlavaMiniProcessor, side_px
from llava_mini.lines import read_whole_lines

IGNORED = -100


@dataclass(frozen=True)
class Sample:
    """An example as the model takes it."""

    id: str
    tokens: ChatTokens
    pixels: Tensor | None
    """`(F, P, 3, H, W)`: the frames of its own pictures and videos."""
    lost: int = 0
    """Tokens that were cut off at its end."""

    @property
    def supervised(self) -> int:
        """How many tokens are learned; the first one never is."""
        return sum(self.tokens.answers[1:])


@dataclass(frozen=True)
class ExampleCollator:
    """Turn examples into samples, and samples into a batch."""

    processor: LlavaMiniProcessor
    tokens_per_frame: int
    """As many as the stage's model sees: 576 of a 336 px picture in stage 1, 1 in stage 2."""
    max_tokens: int = 2048
    """Longest sample, and longest packed row."""
    packing: bool = False
    """Put several samples into a row of the language model; each sees itself alone."""
    template: str = ""
    """Chat template that is rendered; empty: the processor's own."""

    def prepare(self, example: Example) -> Sample:
        """Tokenize an example and open its pictures.

        Raises:
            DataError: with the example's id, when a picture cannot be opened, nothing is supervised or it is too long.
        """
        try:
            tokens, pixels = self.processor.prepare_conversation(
                example.messages, template=self.template or None, tokens_per_frame=self.tokens_per_frame
            )
        except LlavaMiniError as error:
            raise DataError(f"{example.id}: {error}") from error
        kept = self._cut(tokens, example.id)
        sample = Sample(example.id, kept, pixels, len(tokens.ids) - len(kept.ids))
        if not sample.supervised:
            raise DataError(f"{example.id}: no token is supervised; an answer of the assistant is needed")
        return sample

    def _cut(self, tokens: ChatTokens, id_: str) -> ChatTokens:
        """Cut what is too long at its end, but no picture."""
        lost = tokens.ids[self.max_tokens :]
        if self.processor.image_token_id in lost:
            wanted = tokens.ids.count(self.processor.image_token_id)
            raise DataError(f"{id_}: {wanted} vision tokens and the text before them exceed {self.max_tokens} tokens")
        return ChatTokens(tokens.ids[: self.max_tokens], tokens.answers[: self.max_tokens])

    def join(self, samples: Sequence[Sample], number: int = 0) -> dict[str, Tensor]:
        """Stack samples, padded on the right; nothing is drawn, so `number` changes nothing.

        Returns:
            `input_ids`, `attention_mask`, `labels` `(S, L)`; `frames` `(S,)`; `pixel_values`
            `(R, P, 3, H, W)`; `packed` `(B, L')` if packed: which of the S · L places stands where, −1 for padding.
        """
        longest = max(len(sample.tokens.ids) for sample in samples)
        input_ids = torch.zeros(len(samples), longest, dtype=torch.long)
        labels, attention_mask = torch.full_like(input_ids, IGNORED), torch.zeros_like(input_ids)
        for row, sample in enumerate(samples):
            ids, answers = torch.tensor(sample.tokens.ids), torch.tensor(sample.tokens.answers)
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
            labels[row, : len(ids)] = torch.where(answers, ids, IGNORED)
        frames = torch.tensor([0 if sample.pixels is None else len(sample.pixels) for sample in samples])
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, "frames": frames}
        none = torch.zeros(0, self.processor.parts_per_frame, 3, *[side_px(self.processor.image_processor)] * 2)
        batch["pixel_values"] = torch.cat([none, *(sample.pixels for sample in samples if sample.pixels is not None)])
        if self.packing:
            batch["packed"] = pack_rows([len(sample.tokens.ids) for sample in samples], longest, self.max_tokens)
        return batch


def pack_rows(lengths: Sequence[int], longest: int, room: int) -> Tensor:
    """Put samples into few rows of about the same length: each sample, the longest first, goes to the emptiest row.

    Args:
        lengths: tokens of each sample.
        longest: L, the padded length of a sample.
        room: most tokens of a row.

    Returns:
        `(B, L')`: places of the flattened `(S, L)`, −1 where a row is shorter than the longest.
    """
    falling = sorted(range(len(lengths)), key=lambda one: -lengths[one])
    for count in range(-(-sum(lengths) // room), len(lengths) + 1):
        rows: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for sample in falling:
            emptiest = filled.index(min(filled))
            rows[emptiest].append(sample)
            filled[emptiest] += lengths[sample]
        if max(filled) <= room:
            break
    packed = torch.full((len(rows), max(filled)), -1)
    for number, row in enumerate(rows):
        places = torch.cat([torch.arange(lengths[sample]) + sample * longest for sample in row])
        packed[number, : len(places)] = places
    return packed


class Skipped:
    """Samples that were left out because they are bad, at most so many; written down as they are met."""

    def __init__(self, path: Path, allowed: int) -> None:
        self.path, self.allowed = path, allowed

    def ids(self) -> set[str]:
        """Return the ids that have been left out so far, by any process."""
        return {row["id"] for row in read_whole_lines(self.path)} if self.path.is_file() else set()

    def add(self, id_: str, error: DataError) -> None:
        """Leave one out.

        Raises:
            DataError: when that makes too many.
        """
        if not self.allowed:
            raise error
        if id_ not in self.ids():
            line = json.dumps({"id": id_, "reason": str(error)}) + "\n"
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)  # one write: lines do not mix
            os.write(handle, line.encode())
            os.close(handle)
        if (count := len(self.ids())) > self.allowed:
            raise DataError(
                f"{count} samples are bad, --skip-bad allows {self.allowed}: {self.path}; the last: {error}"
            )
