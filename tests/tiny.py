"""Tiny seeded models and a tiny tokenizer: every test's stand-in for the real thing."""

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_mini import LlavaMiniConfig, LlavaMiniForConditionalGeneration, LlavaMiniProcessor
from llava_mini.inputs.chat import read_template

TEXT = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
EMBEDDED: dict[str, Any] = {
    "compression_attention": "plain",
    "compression_key_norm": True,
    "memory_words": 14,
    "fusion_context": 8,
    "fuse_compressed": False,
    "fusion_residual": True,
    "projector_classes": 5,
    "projector_class_channels": 16,
    "projector_norm": True,
}
"""What makes a tiny model one of the embedded model's form, tower apart."""
_CORPUS = [
    "What is this? It is a cat. What colour is the star? The star is red. How many are there? There are three.",
    "Picture: Video: system user assistant yes no left right the of and in on",
]


def tiny_config(*, text: str = "llama", vision: str = "clip", **changes: Any) -> LlavaMiniConfig:
    """A model of 32 wide text layers and a tower of 4×4 patches."""
    towers = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}
    values: dict[str, Any] = {
        "vision_config": towers[vision](
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
        ),
        "text_config": TEXT[text](
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=400,
            max_position_embeddings=256,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            tie_word_embeddings=False,
        ),
        "image_token_id": tiny_tokenizer().convert_tokens_to_ids("<image>"),
        "fusion_layers": 2,
        "compression_heads": 4,
    }
    return LlavaMiniConfig(**{**values, **changes})


def tiny_model(seed: int = 0, *, attention: str = "sdpa", **changes: Any) -> LlavaMiniForConditionalGeneration:
    """A model with weights large enough that every part matters."""
    torch.manual_seed(seed)
    config = tiny_config(**changes)
    model = LlavaMiniForConditionalGeneration(config)
    model.set_attn_implementation(attention)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.12)
        if model.model.word_memory is not None:
            words = model.model.word_memory.words
            words.copy_(torch.nn.functional.normalize(words.normal_(), dim=-1))
    return model.eval()


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with ChatML and media tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "<|im_end|>", "<|im_start|>", "<image>", "<video>"]
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
        padding_side="left",
    )


def tiny_processor(config: LlavaMiniConfig | None = None) -> LlavaMiniProcessor:
    """The processor that fits a tiny model."""
    size = {"height": 56, "width": 56}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=size)
    config = config or tiny_config()
    return LlavaMiniProcessor.from_config(config, image_processor, tiny_tokenizer(), read_template("chatml"))


def row(frames: int = 1, words: int = 5, *, tokens_per_frame: int = 1, seed: int = 0) -> torch.Tensor:
    """Token ids `(1, L)`: two words, the vision tokens of the frames, more words."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(10, 300, (1, words + 2), generator=generator)
    image = torch.full((1, frames * tokens_per_frame), tiny_tokenizer().convert_tokens_to_ids("<image>"))
    return torch.cat([text[:, :2], image, text[:, 2:]], dim=1)


def pixels(frames: int = 1, parts: int = 1, *, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Pixels `(B, F, P, 3, 56, 56)`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, parts, 3, 56, 56, generator=generator)
