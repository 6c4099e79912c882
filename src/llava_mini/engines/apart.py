"""The language model as a plain folder for other engines, and apart from it everything before it.

`llm/` is what transformers' AutoModelForCausalLM, vLLM and SGLang load; `vision/` is a LLaVA-Mini whose language model
is elsewhere: tower, compression, projector, pre-fusion and the word embeddings.
"""

import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig

from llava_mini.engines.gguf_file import weights_digest
from llava_mini.errors import InputError, ModelError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration

LANGUAGE_MODEL, VISION = "llm", "vision"
_CHECKED_WORDS = 8


def served_name(model: Any) -> str:
    """Name a language model by its weights: what it is served as, so that nobody asks another one by mistake."""
    return f"llava-mini-{weights_digest(model)[:12]}"


def check_new(folder: Path) -> None:
    """Refuse a folder that is there, or has no place.

    Raises:
        InputError: with what would be right.
    """
    if folder.exists():
        raise InputError(f"{folder} is there already; give a new folder")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"there is no folder {folder.absolute().parent}; make it first")


@torch.no_grad()
def export_apart(model: Any, processor: Any, folder: Path) -> str:
    """Write `llm/` and `vision/` into a new folder.

    Returns:
        The name under which `llm/` shall be served.

    Raises:
        InputError: when the folder is there already.
        ModelError: for a language model that is no plain one of transformers.
    """
    if model.config.language_model_elsewhere:
        raise ModelError("this model's language model was exported before; give the whole model")
    check_new(folder)
    plain, name = plain_language_model(model), served_name(model)
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / folder.name
        plain.save_pretrained(made / LANGUAGE_MODEL)
        processor.tokenizer.save_pretrained(made / LANGUAGE_MODEL)
        _say_as_before(made / LANGUAGE_MODEL)
        without_language_model(model, name).save_pretrained(made / VISION)
        processor.save_pretrained(made / VISION)
        for weights in made.rglob("*.safetensors"):  # written for their owner alone; a server may be another user
            weights.chmod((made / LANGUAGE_MODEL / "config.json").stat().st_mode & 0o777)
        shutil.move(made, folder)
    return name


@torch.no_grad()
def plain_language_model(model: Any) -> Any:
    """Return the language model and its head as transformers' own class for it; the weights are shared.

    Raises:
        ModelError: when there is no such class, or it gives other logits.
    """
    text, backbone = copy.deepcopy(model.config.text), model.model.language_model
    text.dtype = model.dtype
    try:
        with torch.device("meta"):
            plain = AutoModelForCausalLM.from_config(text)
    except ValueError as error:
        raise ModelError(f"transformers has no causal language model of the kind {text.model_type}") from error
    if type(plain.base_model) is not type(backbone) or type(model.get_input_embeddings()) is not nn.Embedding:
        raise ModelError(f"a {text.model_type} language model cannot be written apart; a llama model can")
    setattr(plain, plain.base_model_prefix, backbone)
    plain.set_output_embeddings(model.lm_head)
    ids = torch.arange(_CHECKED_WORDS, device=model.device)[None] % text.vocab_size
    embeds = model.get_input_embeddings()(ids)
    if not torch.equal(plain(inputs_embeds=embeds).logits, model(inputs_embeds=embeds).logits):
        raise ModelError(f"a {text.model_type} language model apart gives other logits; it cannot be written")
    own = model.generation_config
    plain.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
    )
    return plain.eval()


def without_language_model(model: Any, name: str) -> LlavaMiniForConditionalGeneration:
    """Return a model that shares all weights but the language model's layers and head, which `name` serves."""
    config = copy.deepcopy(model.config)
    config.language_model_elsewhere, config.tie_word_embeddings = name, False
    config.dtype = model.dtype
    with torch.device("meta"):
        front = LlavaMiniForConditionalGeneration(config)
    weights = model.state_dict()
    front.load_state_dict({key: weights[key] for key in front.state_dict()}, assign=True)
    front.generation_config = model.generation_config
    return front.eval()


def _say_as_before(folder: Path) -> None:
    """Tell rotary positions and tokenizer in the words of transformers 4, too: many servers still read those."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    turns = config.get("rope_parameters") or {}
    if "rope_theta" in turns:
        config["rope_theta"] = turns["rope_theta"]
        scaling = {name: value for name, value in turns.items() if name != "rope_theta"}
        config["rope_scaling"] = None if turns.get("rope_type") == "default" else scaling
    config["torch_dtype"] = config["dtype"]
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if "extra_special_tokens" in config:
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
