"""What a configuration promises of its weights: a model that can be built, names, shapes, precision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from llava_mini.checkpoints.tensors import Shapes, read_tensors
from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import LlavaMiniError, ModelError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration

ENCODER = "model.vision_tower.encoder."


def built(source: Path, build: Callable[[], LlavaMiniConfig]) -> LlavaMiniConfig:
    """Build a configuration from fields that anybody may have written."""
    try:
        return build()
    except LlavaMiniError:
        raise
    except Exception as error:  # missing fields and wrong types raise many kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelError(f"{source / 'config.json'} describes no model that can be built: {reason}") from error


def precision(fields: dict[str, Any]) -> torch.dtype | None:
    """Return the precision that a `config.json` names."""
    named = fields.get("torch_dtype") or fields.get("dtype")
    if named is None:
        return None
    found = getattr(torch, str(named).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelError(f"torch_dtype is {named!r}; it must name a precision, as 'bfloat16'")
    return found


def expected(config: LlavaMiniConfig) -> tuple[Shapes, Shapes]:
    """Return names and shapes of our model, and of what its tower would have above the layer that is used."""
    try:
        with torch.device("meta"):
            model = LlavaMiniForConditionalGeneration(config)
            tower = AutoModel.from_config(config.vision)
    except LlavaMiniError:
        raise
    except Exception as error:  # an unknown activation, a negative width, …
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelError(f"the configuration describes no model that can be built: {reason}") from error
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    whole = {ENCODER + name: tuple(value.shape) for name, value in tower.state_dict().items()}
    return own, {name: shape for name, shape in whole.items() if name not in own}


def tied_tensors(config: LlavaMiniConfig) -> set[str]:
    """Return the tensors that are no tensors of their own."""
    return {"lm_head.weight"} if config.text.tie_word_embeddings else set()


def check_tied(sources: list[tuple[list[Path], Callable[[str], str | None]]]) -> None:
    """Refuse a head that differs from the embeddings though the configuration says that they are one."""
    same: list[Tensor] = []
    for files, rename in sources:
        for name, tensor in read_tensors(files):
            if rename(name) in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
                same.append(tensor.clone())
    if len(same) == 2 and not torch.equal(*same):
        raise ModelError("lm_head.weight differs from the embeddings, but tie_word_embeddings says they are one")
