"""The configuration of LLaVA-Mini: which tower, which compression, how much pre-fusion, which language model.

Source: LLaVA-Mini, section 4 and Table 9; where the released program differs, the field says so.
"""

import math
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from llava_mini.errors import ConfigError


@strict
class EfficientNetLiteConfig(PreTrainedConfig):
    """Configure the convolutional tower of the embedded model (EfficientNet-Lite2, ImageNet)."""

    model_type = "efficientnet_lite"

    image_size: int = 260
    """Side of the square input in pixels."""
    patch_size: int = 32
    """Total stride: one cell of the last map covers this many pixels; ⌈260/32⌉² = 81 cells."""
    num_channels: int = 3
    """Input channels."""
    num_classes: int = 1000
    """Classes of the classifier that comes along (used by the semantic projector)."""
    hidden_size: int = 1504
    """Width of a cell: 1280 final channels + 120 + 48 + 24 of earlier blocks, pooled to the same grid, + 32 that say
    where the cell is: a convolution does not know, and without them nothing is left or right of anything."""


@strict
class LlavaMiniConfig(PreTrainedConfig):
    """Configure one model; its three forms are `all tokens`, `compression` and `compression + pre-fusion`.

    Raises:
        ConfigError: when two fields contradict each other.
    """

    model_type = "llava_mini"
    sub_configs: ClassVar[dict[str, type]] = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    """Any CLIP- or SigLIP-like tower, or `EfficientNetLiteConfig`. The paper: CLIP ViT-L/14 at 336 px."""
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    """Any Llama-like language model (Vicuna, Llama-3.1, Mistral, Qwen2, SmolLM2)."""
    image_token_id: int = 128257
    """Token that stands where a vision token goes; it needs no row in the embedding table."""
    vision_feature_layer: int | None = -2
    """Hidden state of the tower that is used; the paper: the penultimate layer. None: the tower's own output."""

    compression: Literal["none", "query", "average"] = "query"
    """How N² patches become C² tokens (section 4.1); "none" keeps all of them: LLaVA-v1.5, and stage 1."""
    compression_size: int = 1
    """C: an image gives C² vision tokens. The paper: 1, and 8 in the HD model."""
    compression_first: bool = True
    """True: compress the tower's features, then project (released). False: project, then compress (paper)."""
    compression_attention: Literal["multi_head", "plain"] = "multi_head"
    """"multi_head": learned norms, positions, heads and output (released). "plain": one softmax, no other weights."""
    compression_heads: int = 8
    """Heads of the multi-head form; the released model: 8."""
    compression_key_norm: bool = False
    """Plain form only: normalise and scale the scores (ours; the paper's equation has neither)."""

    memory_words: int = 0
    """> 0: so many words that a compressed vision token is drawn to (ours); not with compression "none"."""

    fusion_layers: int = 4
    """N_fusion, pre-fusion layers of the same kind as the language model's (section 4.2). 0: no pre-fusion."""
    fusion_context: int = 0
    """> 0: so many channels in which a patch hears what lies around it, and what its part shows as a whole, before
    pre-fusion reads it (ours)."""
    fuse_compressed: bool = True
    """True: the C² tokens pass through pre-fusion too (released). False: they go to the LLM directly (paper)."""
    fusion_residual: bool = False
    """True: a word becomes embedding + scaled pre-fusion output (ours). False: the output replaces it (paper)."""
    fuse_history: bool = False
    """True: earlier answers are fused at inference, as the released program does though it masks them in training."""
    token_zero_is_padding: bool = False
    """True: words of id 0 are neither fused nor read by pre-fusion, as the released program does."""

    projector_classes: int = 0
    """> 0: the semantic projector, which adds a word embedding per class of the tower's classifier (ours)."""
    projector_class_channels: int = 1280
    """How many leading channels of a feature the tower's classifier reads."""
    projector_norm: bool = False
    """True: vision tokens are brought to the norm of text embeddings (ours; a large norm blinds a small LLM)."""

    tiles: int = 1
    """S: a picture is cut into S×S tiles beside the whole; 1 for standard resolution, 2 in the paper's HD model."""
    image_aspect_ratio: Literal["crop", "pad", "stretch"] = "pad"
    """How a picture becomes square: padded with the mean colour, centre-cropped (released "square"), or squashed."""
    language_model_elsewhere: str = ""
    """Name under which a server serves the language model of a folder that holds all but its layers and head
    (`llava-mini export --llm`); empty: they are here."""
    frame_memory_mb: int = 128
    """Memory for the frames that are worked on at a time, in MiB: it sets the chunk of a long video, and no result."""
    tie_word_embeddings: bool = False
    """Whether the LM head shares the text embeddings; taken from `text_config`."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = _resolve(self.vision_config, default="clip_vision_model")
        self.text_config = _resolve(self.text_config, default="llama")
        self.tie_word_embeddings = self.text.tie_word_embeddings and not self.language_model_elsewhere
        super().__post_init__(**kwargs)
        self._check()

    def _check(self) -> None:
        if self.compression_size < 1:
            raise ConfigError(f"compression_size is {self.compression_size}; it must be at least 1")
        if self.memory_words < 0 or (self.memory_words and self.compression == "none"):
            raise ConfigError(
                f"memory_words is {self.memory_words}, compression {self.compression!r}; it must be at least 0, and 0 "
                "where nothing is compressed"
            )
        if self.frame_memory_mb < 1:
            raise ConfigError(f"frame_memory_mb is {self.frame_memory_mb}; it must be at least 1")
        if self.tiles < 1:
            raise ConfigError(f"tiles is {self.tiles}; it must be at least 1")
        if not 0 <= self.fusion_layers <= self.text.num_hidden_layers:
            raise ConfigError(
                f"fusion_layers is {self.fusion_layers}; it must be between 0 and the language model's "
                f"{self.text.num_hidden_layers} layers"
            )
        if self.fusion_context < 0 or (self.fusion_context and not self.fusion_layers):
            raise ConfigError(
                f"fusion_context is {self.fusion_context}, fusion_layers {self.fusion_layers}; it must be at "
                "least 0, and 0 where nothing is fused"
            )
        if self.compression == "query" and self.compression_attention == "multi_head":
            width = self.vision.hidden_size if self.compression_first else self.text.hidden_size
            if width % self.compression_heads:
                raise ConfigError(f"compression_heads ({self.compression_heads}) must divide the width ({width})")
        side = self.tiles * self.patches_per_side
        if self.compression != "none" and self.compression_size > side:
            raise ConfigError(
                f"compression_size is {self.compression_size}; the tower gives only {side} patches a side"
            )
        if self.projector_classes and self.vision.hidden_size < self.projector_class_channels:
            raise ConfigError(
                f"projector_class_channels is {self.projector_class_channels}; the tower is "
                f"{self.vision.hidden_size} wide"
            )

    @property
    def vision(self) -> PreTrainedConfig:
        """The tower's configuration, never a dict."""
        assert isinstance(self.vision_config, PreTrainedConfig)
        return self.vision_config

    @property
    def text(self) -> PreTrainedConfig:
        """The language model's configuration, never a dict."""
        assert isinstance(self.text_config, PreTrainedConfig)
        return self.text_config

    @property
    def patches_per_side(self) -> int:
        """N: one part (a whole picture or a tile) gives N² patches."""
        return math.ceil(self.vision.image_size / self.vision.patch_size)

    @property
    def parts_per_frame(self) -> int:
        """P: 1, or S² tiles and the whole picture."""
        return 1 if self.tiles == 1 else self.tiles**2 + 1

    @property
    def all_tokens_per_frame(self) -> int:
        """P · N²: what stage 1 shows the language model of a frame, nothing compressed."""
        return self.parts_per_frame * self.patches_per_side**2

    @property
    def tokens_per_frame(self) -> int:
        """Vision tokens that the language model sees for one picture or frame."""
        if self.compression == "none":
            return self.all_tokens_per_frame
        return int(self.compression_size**2)


def _resolve(config: dict[str, Any] | PreTrainedConfig | None, *, default: str) -> PreTrainedConfig:
    """Return a configuration object from a dict as it stands in `config.json`."""
    if isinstance(config, PreTrainedConfig):
        return config
    values = dict(config or {})
    resolved = AutoConfig.for_model(values.pop("model_type", default), **values)
    assert isinstance(resolved, PreTrainedConfig)
    return resolved
