"""A language model that is not in this process: only its word embeddings are here, which pre-fusion reads.

The rest runs on a server that takes embeddings (`llava_mini.engines.vllm`).  V vocabulary · d width.
"""

from typing import Any, NoReturn

from torch import nn
from transformers import PreTrainedConfig

from llava_mini.errors import ModelError


class LanguageModelElsewhere(nn.Module):
    """Stands where the language model stood."""

    def __init__(self, config: PreTrainedConfig, embeddings: nn.Module | None = None) -> None:
        """Keep the word embeddings `(V, d)`; without them, make room for those of a checkpoint."""
        super().__init__()
        self.embed_tokens = embeddings or nn.Embedding(config.vocab_size, config.hidden_size)

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.embed_tokens = value

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: nothing is computed here.

        Raises:
            ModelError: always.
        """
        raise ModelError("this needs the language model itself, which runs on a server; use the whole model instead")
