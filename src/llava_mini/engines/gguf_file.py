"""A language model of Llama's kind as a GGUF file, as llama.cpp reads it.

Source: the GGUF specification and tensor names of ggml-org/llama.cpp; its rotary positions turn neighbours, those of
transformers turn halves, so the rows of query and key are put in another order.
"""

import hashlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from llava_mini.errors import ModelError

DIGEST = "llava_mini.weights"
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@torch.no_grad()
def write_gguf(model: Any, path: Path) -> None:
    """Write the language model and head of a LLaVA-Mini in 16 bits, without a vocabulary: tokens are ours.

    Raises:
        ModelError: for a language model that is not of Llama's kind.
    """
    config, backbone = model.config.text, model.model.language_model
    names = {name for name, _ in backbone.layers[0].named_parameters()}
    if config.model_type != "llama" or names != {f"{name}.weight" for name in _LAYER}:
        raise ModelError(f"a {config.model_type} language model cannot be written yet; a llama model can")
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_rope_dimension_count(config.hidden_size // heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_string(DIGEST, weights_digest(model))
    turns = _turns(backbone, config)
    if not np.allclose(turns, 1):
        writer.add_tensor("rope_freqs.weight", turns)
    writer.add_tensor("token_embd.weight", _half(model.word_embeddings))
    writer.add_tensor("output_norm.weight", _single(backbone.norm.weight))
    if not config.tie_word_embeddings:
        writer.add_tensor("output.weight", _half(model.lm_head.weight))
    for number, layer in enumerate(backbone.layers):
        for name, theirs in _LAYER.items():
            weight = layer.get_parameter(f"{name}.weight")
            if theirs in ("attn_q", "attn_k"):
                weight = _neighbours(weight, heads if theirs == "attn_q" else key_heads)
            writer.add_tensor(f"blk.{number}.{theirs}.weight", _single(weight) if weight.ndim == 1 else _half(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_digest(path: Path) -> str:
    """Return which weights a file was written from; empty for files of others.

    Raises:
        ModelError: when it is no GGUF file.
    """
    try:
        field = gguf.GGUFReader(path).get_field(DIGEST)
    except Exception as error:  # damaged files raise many kinds
        raise ModelError(f"{path} is no GGUF file ({' '.join(str(error).split())[:120]})") from error
    return "" if field is None else str(field.contents())


def weights_digest(model: Any) -> str:
    """Name the weights of a language model by each 61st number of every tensor, for training moves nearly all."""
    backbone = model.model.language_model
    digest = hashlib.sha256()
    for weight in (model.word_embeddings, model.lm_head.weight, *backbone.parameters()):
        digest.update(f"{tuple(weight.shape)}".encode())
        digest.update(weight.detach().flatten()[::61].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _neighbours(weight: Tensor, heads: int) -> Tensor:
    """Order the rows of each head so that pairs that are turned together stand side by side."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _turns(backbone: Any, config: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return by what each rotary frequency is divided: 1 but for models whose context was stretched."""
    width = config.hidden_size // config.num_attention_heads
    plain = float(config.rope_parameters["rope_theta"]) ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    return _single(plain / backbone.rotary_emb.inv_freq.double().cpu())


def _half(weight: Tensor) -> np.ndarray[Any, np.dtype[np.float16]]:
    return weight.detach().cpu().to(torch.float16).numpy()


def _single(weight: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return weight.detach().cpu().float().numpy()
