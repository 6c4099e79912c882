"""The sizes of the models in the paper, without their weights: for plans and counts, and to join their parts.

Source: `config.json` of lmsys/vicuna-7b-v1.5 and meta-llama/Llama-3.1-8B-Instruct; LLaVA-Mini, section 5.1.
"""

from typing import Any, Literal

from transformers import LlamaConfig

from llava_mini.checkpoints.official import known_tower
from llava_mini.config import LlavaMiniConfig

Geometry = Literal["vicuna-7b", "llama-3.1-8b"]
_TEXT: dict[Geometry, dict[str, Any]] = {
    "vicuna-7b": {"vocab_size": 32000, "intermediate_size": 11008, "num_key_value_heads": 32},
    "llama-3.1-8b": {
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
    """Return the configuration of LLaVA-Mini on one of the paper's language models, in the released form."""
    text = LlamaConfig(
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        **_TEXT[name],
    )
    return LlavaMiniConfig(vision_config=known_tower(), text_config=text, **changes)
