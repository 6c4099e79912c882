"""Conversations that are answered together: rows join and leave between two steps of the language model.

The idea is Orca's iteration-level scheduling (Yu et al., OSDI 2022), often called continuous batching. Rows are padded
on the left, and while they are read also after what is kept of them; their keys are turned by their own positions, so
padding changes nothing but the order of sums. (A sliding window counts places; prompts read together are shorter.)
B rows · L tokens · V vocabulary · d width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from llava_mini.model.dialogue import Dialogue


class RunningBatch:
    """The keys and values of all rows that are being answered."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache = DynamicCache()
        self._present = torch.zeros(0, 0, dtype=torch.long, device=model.device)
        """`(B, L)`: 1 where a row has a token, 0 where it is padded."""

    def __len__(self) -> int:
        return self._present.shape[0]

    @property
    def places(self) -> int:
        """Places in the cache, B · L, padding included."""
        return self._present.numel()

    def places_with(self, lengths: Sequence[int], steps: int) -> int:
        """Return how many places there would be if rows of these lengths joined, and all took so many steps."""
        return (len(self) + len(lengths)) * (max([self._present.shape[1], *lengths]) + steps)

    @torch.no_grad()
    def join(
        self, prompts: Sequence[Tensor], copies: Sequence[int], dialogues: Sequence[Dialogue | None] = ()
    ) -> Tensor:
        """Read new prompts together and let them join at the end; return the logits of their next tokens.

        Args:
            prompts: one `(L, d)` of embeddings each.
            copies: how many rows shall go on from each prompt, which is read once.
            dialogues: of each prompt what keeps its beginning, which is not read again, and will keep all of it.

        Returns:
            `(rows, V)`, the copies of a prompt side by side.
        """
        beginnings = list(dialogues) or [None] * len(prompts)
        kept = [0 if one is None else one.kept for one in beginnings]
        new = [prompt[count:] for prompt, count in zip(prompts, kept, strict=True)]
        present = torch.cat([_ones(kept), _ones([len(prompt) for prompt in new])], dim=1).to(self._model.device)
        read = _stacked([None if one is None or not one.kept else one.cache for one in beginnings])
        out = self._model(
            inputs_embeds=torch.stack(_pad(new)),
            attention_mask=present,
            position_ids=(present.cumsum(dim=1) - 1).clamp(min=0)[:, max(kept) :],
            past_key_values=read,
            use_cache=True,
            logits_to_keep=1,
        )
        own = [
            _row_of(read, row, slice(max(kept) - count, max(kept)), len(prompt))
            for row, (count, prompt) in enumerate(zip(kept, new, strict=True))
        ]
        for one, cache in zip(beginnings, own, strict=True):
            if one is not None:
                one.take_cache(cache)
        rows = [row for row, count in enumerate(copies) for _ in range(count)]
        self._append([own[row] for row in rows])
        logits: Tensor = out.logits[rows, -1]
        return logits.float()

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Read the last token `(B,)` of every row; return the logits of the next, `(B, V)`."""
        self._present = F.pad(self._present, (0, 1), value=1)
        out = self._model(
            inputs_embeds=self._model.get_input_embeddings()(tokens[:, None]),
            attention_mask=self._present,
            position_ids=self._present.sum(dim=1, keepdim=True) - 1,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1]
        return logits.float()

    def keep(self, rows: Sequence[int]) -> None:
        """Let all other rows leave, and drop the padding that only they needed."""
        chosen = torch.tensor(list(rows), dtype=torch.long, device=self._model.device)
        present = self._present[chosen]
        first = int(present.argmax(dim=1).min()) if len(rows) else present.shape[1]
        kept = DynamicCache()
        if len(rows):
            for number, layer in enumerate(self._cache.layers):
                kept.update(layer.keys[chosen, :, first:], layer.values[chosen, :, first:], number)
        self._cache, self._present = kept, present[:, first:]

    def _append(self, rows: Sequence[DynamicCache]) -> None:
        """Put further rows under those that run, the shorter ones padded on the left."""
        self._cache = _stacked([*([self._cache] if len(self) else []), *rows])
        present = _ones([int(row.get_seq_length()) for row in rows]).to(self._present.device)
        self._present = torch.cat(_pad([self._present[..., None], present[..., None]]))[..., 0]


def _pad(parts: Sequence[Tensor]) -> list[Tensor]:
    """Pad `(…, L, d)` on the left, so that all are as long as the longest."""
    length = max(part.shape[-2] for part in parts)
    return [F.pad(part, (0, 0, length - part.shape[-2], 0)) for part in parts]


def _ones(lengths: Sequence[int]) -> Tensor:
    """Return `(rows, longest)`: 1 where a row of that length has a token, padded on the left."""
    return (torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]).long()


def _stacked(caches: Sequence[Any]) -> DynamicCache:
    """Put the rows of caches under each other, padded on the left; None is a row that keeps nothing."""
    made = DynamicCache()
    some = next((one for one in caches if one is not None), made)

    def rows(number: int, part: str) -> Tensor:
        nothing = getattr(some.layers[number], part)[:1, :, :0]
        return torch.cat(_pad([nothing if one is None else getattr(one.layers[number], part) for one in caches]))

    for number in range(len(some.layers)):
        made.update(rows(number, "keys"), rows(number, "values"), number)
    return made


def _row_of(cache: DynamicCache, row: int, kept: slice, new: int) -> DynamicCache:
    """Take one row out of a cache: the places that were kept, and the last ones, which are new."""
    made = DynamicCache()
    for number, layer in enumerate(cache.layers):
        for places in (kept, slice(-new, None)):
            made.update(layer.keys[row : row + 1, :, places], layer.values[row : row + 1, :, places], number)
    return made
