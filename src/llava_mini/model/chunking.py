"""How many frames are worked on at a time, so that a long video needs no more memory than a short one.

P parts · N² patches · V vision positions of pre-fusion · d width.  An estimate, on the large side.
"""

import torch

from llava_mini.config import EfficientNetLiteConfig, LlavaMiniConfig

_LIVE = 6  # hidden states of a transformer layer that are alive at once: input, norm, query, key, value, output
_WORDS = 64  # a question


def frames_per_chunk(config: LlavaMiniConfig, dtype: torch.dtype) -> int:
    """Return how many frames fit into `frame_memory_mb`, at least one."""
    return max(1, int(config.frame_memory_mb * 2**20 / frame_bytes(config, dtype)))


def frame_bytes(config: LlavaMiniConfig, dtype: torch.dtype) -> int:
    """Estimate the bytes that a frame needs while it is encoded and read by a question of 64 words.

    The convolutional tower takes a few pictures at a time whatever the chunk, so its maps do not count.
    """
    text, vision, parts = config.text, config.vision, config.parts_per_frame
    pixels = 3 * parts * vision.image_size**2
    tower = parts * config.patches_per_side**2 * _LIVE * vision.hidden_size
    if not isinstance(vision, EfficientNetLiteConfig):
        tower += parts * config.patches_per_side**2 * 2 * vision.intermediate_size
    rows = vision_positions(config) + _WORDS
    reading = rows * (_LIVE * text.hidden_size + 3 * text.intermediate_size) if config.fusion_layers else 0
    working = max(tower, reading) * dtype.itemsize
    waiting = 4 * 5 * pixels  # fp32: in the thread's hand twice, twice in the queue, and with the model
    return waiting + working + kept_bytes(config, dtype)


def kept_bytes(config: LlavaMiniConfig, dtype: torch.dtype) -> int:
    """Return the bytes that a `VisionPrefix` keeps of a frame, for a second question about it."""
    text = config.text
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    states = 2 * config.fusion_layers * vision_positions(config) * text.num_key_value_heads * width
    return int(dtype.itemsize * (states + config.tokens_per_frame * text.hidden_size))


def vision_positions(config: LlavaMiniConfig) -> int:
    """V: what pre-fusion reads of a frame: the raster, the whole picture beside tiles, the compressed tokens."""
    raster = (config.tiles * config.patches_per_side) ** 2
    whole = 0 if config.tiles == 1 else config.patches_per_side**2
    refined = config.tokens_per_frame if config.fuse_compressed and config.compression != "none" else 0
    return raster + whole + refined
