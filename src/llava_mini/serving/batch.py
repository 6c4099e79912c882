"""Conversations that are answered together: rows join and leave between two steps of the language model.

The idea is Orca's iteration-level scheduling (Yu et al., OSDI 2022), often called continuous batching. Rows are padded
on the left; their keys are turned by their own positions, so padding changes nothing but the order of sums.
B rows · L tokens · V vocabulary · d width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache


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
    def join(self, prompts: Sequence[Tensor], copies: Sequence[int]) -> Tensor:
        """Read new prompts together and let them join at the end; return the logits of their next tokens.

        Args:
            prompts: one `(L, d)` of embeddings each.
            copies: how many rows shall go on from each prompt, which is read once.

        Returns:
            `(rows, V)`, the copies of a prompt side by side.
        """
        longest = max(len(prompt) for prompt in prompts)
        embeds = torch.stack([F.pad(prompt, (0, 0, longest - len(prompt), 0)) for prompt in prompts])
        present = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self._model.device
        )
        read = DynamicCache()
        out = self._model(
            inputs_embeds=embeds,
            attention_mask=present,
            position_ids=(present.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=read,
            use_cache=True,
            logits_to_keep=1,
        )
        rows = torch.arange(len(prompts)).repeat_interleave(torch.tensor(list(copies))).to(self._model.device)
        self._append(read, present, rows)
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

    def _append(self, read: DynamicCache, present: Tensor, rows: Tensor) -> None:
        """Put rows of another cache under those that run, the shorter of both padded on the left."""
        length = max(present.shape[1], self._present.shape[1])
        joined = DynamicCache()
        for number, layer in enumerate(read.layers):
            parts = [(layer.keys[rows], layer.values[rows])]
            if len(self):
                running = self._cache.layers[number]
                parts.insert(0, (running.keys, running.values))
            keys, values = (
                torch.cat([F.pad(part[which], (0, 0, length - part[which].shape[2], 0)) for part in parts])
                for which in (0, 1)
            )
            joined.update(keys, values, number)
        self._cache = joined
        self._present = torch.cat([F.pad(part, (length - part.shape[1], 0)) for part in (self._present, present[rows])])
