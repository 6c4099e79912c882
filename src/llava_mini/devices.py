"""Devices and precisions by name."""

import torch

from llava_mini.errors import InputError


def find_device(name: str) -> torch.device:
    """Return a device by name; "auto" is the best there is.

    Raises:
        InputError: when it cannot be used here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here; try 'cpu' or 'auto'") from error
    return device


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return a precision by name; "auto" is float32 on a CPU and bfloat16 elsewhere.

    Raises:
        InputError: when it has no such name.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise InputError(f"dtype {name!r} is unknown; use one of {', '.join(known)} or 'auto'")
    return known[name]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has instructions for products of bfloat16; a CPU without them is slower than in float32."""
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # not public, and not in every build
    return device.type != "cpu" or (known is not None and bool(known()))
