"""The sizes of the models in the paper and of two smaller ones, without their weights: for plans, counts and timings.

Source: `config.json` of lmsys/vicuna-7b-v1.5, meta-llama/Llama-3.1-8B-Instruct, TinyLlama/TinyLlama-1.1B-Chat-v1.0 and
HuggingFaceTB/SmolLM2-135M-Instruct; LLaVA-Mini, section 5.1.
"""

from typing import Any, Literal

from transformers import LlamaConfig

from llava_mini.checkpoints.official import known_tower
from llava_mini.config import LlavaMiniConfig

Geometry = Literal["vicuna-7b", "llama-3.1-8b", "tinyllama-1.1b", "smollm2-135m"]
_PAPER: dict[str, Any] = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
_TEXT: dict[Geometry, dict[str, Any]] = {
    "vicuna-7b": {**_PAPER, "vocab_size": 32000, "intermediate_size": 11008, "num_key_value_heads": 32},
    "tinyllama-1.1b": {
        "hidden_size": 2048,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "vocab_size": 32000,
        "intermediate_size": 5632,
        "num_key_value_heads": 4,
    },
    "smollm2-135m": {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "vocab_size": 49152,
        "intermediate_size": 1536,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        **_PAPER,
        "vocab_size": 128256,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
}


def geometry(name: Geometry, **changes: Any) -> LlavaMiniConfig:
    """Return the configuration of the released form: CLIP ViT-L and a language model of this size."""
    text = LlamaConfig(**{"rms_norm_eps": 1e-5, "tie_word_embeddings": False, **_TEXT[name]})
    return LlavaMiniConfig(vision_config=known_tower(), text_config=text, **changes)
