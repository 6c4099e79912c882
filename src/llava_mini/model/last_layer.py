"""Rows of a last layer that nobody reads are not computed.

A decoder layer adds to its rows what its attention gives and then what its MLP gives. Where only the last row is read,
the query, the output projection and the MLP take that row alone, and the sums broadcast: the last row is what it always
is, the others mean nothing. Keys and values are made of every row. Nothing here knows rotary positions or norms, so it
holds for every layer of Llama's kind.
B batch · L rows · d width.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def last_row_alone(layer: nn.Module) -> Iterator[None]:
    """Let a decoder layer compute queries, output and MLP of its last row only, in this thread."""
    with ExitStack() as stack:
        for path, stretched in (("self_attn.q_proj", True), ("self_attn.o_proj", False), ("mlp", False)):
            module = _part(layer, path)
            if module is not None:
                stack.enter_context(_cut(module, stretched))
        yield


@contextmanager
def without_queries(layer: nn.Module) -> Iterator[None]:
    """Let a decoder layer make keys and values and hardly any query, in this thread; its output means nothing."""
    projection = _part(layer, "self_attn.q_proj")
    with ExitStack() as stack:
        if projection is not None:
            stack.enter_context(_cut(projection, stretched=True))
        yield


@contextmanager
def _cut(module: nn.Module, stretched: bool) -> Iterator[None]:
    """Give a module the last of its `(B, L, d)` rows; its answer stands for all L of them where `stretched`."""
    if torch.compiler.is_compiling():  # a hook for one thread cannot be traced: the layer runs in full
        yield
        return
    thread = threading.get_ident()
    rows = 0

    def shorten(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        nonlocal rows
        if threading.get_ident() != thread:
            return None
        rows = given[0].shape[1]
        return (given[0][:, -1:], *given[1:])

    def stretch(_: nn.Module, __: Any, made: Tensor) -> Tensor | None:
        return made.expand(-1, rows, -1) if stretched and threading.get_ident() == thread else None

    hooks = [module.register_forward_pre_hook(shorten), module.register_forward_hook(stretch)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _part(layer: nn.Module, path: str) -> nn.Module | None:
    """Return a part of a layer, None where layers of its kind have none of that name."""
    found: Any = layer
    for name in path.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, nn.Module) else None
