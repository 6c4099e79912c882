"""What this machine can do at best, measured: the yardstick of every other number."""

import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import nn

from llava_mini.engines.packed import PackedLinear

_SIDE = 1024
_READ_BYTES = 2**29
_EVERY_S = 0.05
_ROW, _MATRICES = 4096, 8
"""Width of Vicuna-7B; so many matrices that no cache holds them."""


@dataclass(frozen=True)
class Machine:
    """Where something was measured."""

    processor: str
    cores: int
    threads: int
    memory_gb: float
    torch: str
    device: str
    dtype: str
    matmul_gflops: float = 0.0
    """Rate at which matrices are multiplied in this precision, in 10⁹ operations a second, median; 0: not measured."""
    read_gb_s: float = 0.0
    """Rate at which numbers too many for caches are added up, in 10⁹ bytes a second, median."""
    row_gb_s: float = 0.0
    """Rate at which one row times matrices reads these, as the engine multiplies: what decoding could reach."""


def this_machine(
    device: torch.device, dtype: torch.dtype, *, matmul: float = 0.0, read: float = 0.0, row: float = 0.0
) -> Machine:
    """Describe the machine.

    Args:
        matmul: operations a second, of `matmul_rate`.
        read: bytes a second, of `read_rate`.
        row: bytes a second, of `row_rate`.
    """
    return Machine(
        _processor(device),
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        torch.get_num_threads(),
        round(psutil.virtual_memory().total / 1e9, 1),
        torch.__version__,
        device.type,
        str(dtype).removeprefix("torch."),
        round(matmul / 1e9, 1),
        round(read / 1e9, 2),
        round(row / 1e9, 2),
    )


def matmul_rate(device: torch.device, dtype: torch.dtype, times: int = 10) -> float:
    """Return the operations a second of plain matrix multiplication."""
    a = torch.randn(_SIDE, _SIDE, device=device).to(dtype)
    a @ a
    wait(device)
    began_s = time.perf_counter()
    for _ in range(times):
        a @ a
    wait(device)
    return times * 2 * _SIDE**3 / (time.perf_counter() - began_s)


def read_rate(device: torch.device, times: int = 3) -> float:
    """Return the bytes a second at which memory is read, where adding up fp32 numbers is all that is done with them."""
    numbers = torch.ones(_READ_BYTES // 4, device=device)
    numbers.sum()
    wait(device)
    began_s = time.perf_counter()
    for _ in range(times):
        numbers.sum()
    wait(device)
    return times * numbers.nbytes / (time.perf_counter() - began_s)


@torch.no_grad()
def row_rate(device: torch.device, dtype: torch.dtype, engine: str = "torch", times: int = 3) -> float:
    """Return the bytes of weights a second that one row times several matrices reads, as decoding does."""
    plain = [nn.Linear(_ROW, _ROW, bias=False, device=device, dtype=dtype) for _ in range(_MATRICES)]
    matrices = [PackedLinear(one) for one in plain] if engine == "packed" else plain
    row = torch.ones(1, _ROW, device=device, dtype=dtype)
    seconds = []
    for _ in range(1 + times):
        began_s = time.perf_counter()
        for matrix in matrices:
            matrix(row)
        wait(device)
        seconds.append(time.perf_counter() - began_s)
    return sum(one.weight.nbytes for one in plain) / min(seconds[1:])


def wait(device: torch.device) -> None:
    """Wait until a device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def peak_resident() -> Iterator[list[float]]:
    """Watch the process's resident memory; its peak in bytes is the list's only item."""
    process, done = psutil.Process(), threading.Event()
    peak = [float(process.memory_info().rss)]

    def watch() -> None:
        while not done.wait(_EVERY_S):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
