"""How fast a CPU multiplies rows by a language model's matrices, plain and laid out once: what answers wait for.

M rows · d, d_ff widths.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llava_mini.config import LlavaMiniConfig
from llava_mini.engines.packed import PackedLinear
from llava_mini.errors import ConfigError

_BYTES = 2e8
"""Of weights in turn, so that no cache holds them."""
_SUMMED = 2**27


@dataclass(frozen=True)
class Product:
    """Rows times one matrix of a language model."""

    outputs: int
    inputs: int
    rows: int
    plain_gb_s: float
    """Weights that are read a second, in 10⁹ bytes, as torch multiplies."""
    packed_gb_s: float
    """The same, weights laid out once."""
    plain_gflops: float
    packed_gflops: float
    difference: float
    """Largest difference between the two results."""


@torch.no_grad()
def time_products(
    config: LlavaMiniConfig, dtype: torch.dtype, rows: Sequence[int] = (1, 61, 640), repeats: int = 3
) -> tuple[float, list[Product]]:
    """Return the bytes a second of plain sums, and what products with matrices of a language model reach, on the CPU.

    With one thread its own time counts, so that other programs disturb little; with several, the time that passes.
    """
    if repeats < 1 or not rows or min(rows) < 1:
        raise ConfigError(f"repeats ({repeats}) and rows ({list(rows)}) must be 1 or more")
    d, d_ff = config.text.hidden_size, config.text.intermediate_size
    generator = torch.Generator().manual_seed(0)
    made = []
    for outputs, inputs in ((d, d), (d_ff, d), (d, d_ff)):
        plain = [
            nn.Linear(inputs, outputs, bias=False) for _ in range(max(2, round(_BYTES / dtype.itemsize / d / d_ff)))
        ]
        plain = [layer.to(dtype) for layer in plain]
        packed = [PackedLinear(layer) for layer in plain]
        read = sum(layer.weight.nbytes for layer in plain)
        for many in rows:
            given = torch.randn(many, inputs, generator=generator).to(dtype)
            times = [_best(layers, given, repeats) for layers in (plain, packed)]
            flops = 2 * many * outputs * inputs * len(plain)
            difference = float((plain[0](given).float() - packed[0](given).float()).abs().max())
            gb_s, gflops = ([round(number / s / 1e9, 1) for s in times] for number in (read, flops))
            made.append(Product(outputs, inputs, many, gb_s[0], gb_s[1], gflops[0], gflops[1], difference))
    numbers = torch.ones(_SUMMED)
    return numbers.nbytes / _best([torch.sum], numbers, repeats), made


def _best(layers: Sequence[Callable[[Tensor], object]], given: Tensor, repeats: int) -> float:
    """Return the seconds of the fastest of several turns through all layers; the first turn warms up."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = []
    for _ in range(1 + repeats):
        began_s = clock()
        for layer in layers:
            layer(given)
        seconds.append(clock() - began_s)
    return min(seconds[1:])
