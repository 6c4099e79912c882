"""Convert whole checkpoints, tensor by tensor: memory stays near one shard, and every name is accounted for."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig

import llava_mini.auto  # noqa: F401  (registers the classes with transformers)
from llava_mini.checkpoints import llava, official
from llava_mini.checkpoints.expected import ENCODER, built, check_tied, expected, precision, tied_tensors
from llava_mini.checkpoints.preparation import forget_media_tokens, join_processor, load_tokenizer
from llava_mini.checkpoints.tensors import Shapes, ShardWriter, read_json, read_shapes, read_tensors, tensor_files
from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import ModelError
from llava_mini.inputs.chat import read_template
from llava_mini.inputs.processor import LlavaMiniProcessor
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration

UNUSED = "vision_tower_unused.safetensors"
"""The tower's layers above the one that is used: never loaded, kept so that a conversion can be undone bit by bit."""


@dataclass(frozen=True)
class Converted:
    """What a conversion did."""

    form: str
    """What the source was."""
    tensors: int
    """Tensors written for the model."""
    dropped: tuple[str, ...]
    """Names of the source that are computed, not learned."""
    set_aside: int
    """Tensors of the tower that no model uses, written to `vision_tower_unused.safetensors`."""
    tower: str
    """Where the tower's weights came from."""


def convert(
    source: Path,
    target: Path,
    *,
    to: Literal["llava-mini", "official"] = "llava-mini",
    vision_tower: Path | None = None,
    tokenizer: Path | None = None,
    allow_pickle: bool = False,
    shard_bytes: int = 2 * 10**9,
) -> Converted:
    """Convert a released LLaVA-Mini or a LLaVA-1.5 (transformers form) to ours, or ours to the released form.

    Numbers are never changed, nor their precision. The target appears only when all of it has been written.

    Args:
        vision_tower: folder of the CLIP tower, when the source holds no tower or not its configuration.
        tokenizer: folder of the tokenizer, when it is not in the source.
        allow_pickle: read `pytorch_model.bin` too, weights only.
        shard_bytes: size of a written file, and so about the memory needed.

    Raises:
        ModelError: when a tensor is missing, left over or of another shape (it is named), or a file is damaged.
    """
    target = target.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} exists and is not an empty folder; choose another one")
    config = read_json(source / "config.json")
    kind = config.get("model_type")
    wanted = ("llava_mini",) if to == "official" else ("llava_mini_llama", "llava")
    if kind not in wanted:
        raise ModelError(f"{source} is a {kind!r} model; to convert to {to} it must be {' or '.join(wanted)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    except OSError as error:
        raise ModelError(f"{target} cannot be made: {str(error.strerror).lower()}") from error
    try:
        if to == "official":
            done = _to_official(source, scratch, vision_tower, shard_bytes)
        else:
            read = _from_official if kind == "llava_mini_llama" else _from_llava
            done = read(source, scratch, config, vision_tower, tokenizer, allow_pickle, shard_bytes)
        if target.exists():
            target.rmdir()
        for path in (scratch, *scratch.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return done


def _from_official(
    source: Path,
    scratch: Path,
    fields: dict[str, Any],
    vision_tower: Path | None,
    tokenizer: Path | None,
    allow_pickle: bool,
    shard_bytes: int,
) -> Converted:
    dtype = precision(fields)
    words = load_tokenizer(tokenizer or source)
    template = "llama-3.1" if "<|start_header_id|>" in words.get_vocab() else "vicuna-v1.1"
    if vision_tower is None and fields.get("mm_vision_tower") != official.CLIP_VIT_L_336:
        named = source / str(fields.get("mm_vision_tower"))
        if not (named / "config.json").is_file():
            raise ModelError(
                f"the tower is {fields.get('mm_vision_tower')!r}; give its folder with --vision-tower "
                f"(only {official.CLIP_VIT_L_336} is known by name)"
            )
        vision_tower = named
    vision = read_json(vision_tower / "config.json") if vision_tower else None
    vision = vision.get("vision_config", vision) if vision else None  # a whole CLIP has its tower's fields inside
    config = built(source, lambda: official.our_config(fields, vision, image_token_id=0))
    processor = join_processor(config, words, read_template(template), vision_tower)
    files = tensor_files(source, allow_pickle=allow_pickle)
    shapes = read_shapes(files)
    sources: list[tuple[list[Path], Callable[[str], str | None]]] = [(files, official.our_name)]
    tower = "in the checkpoint"
    if not any(name.startswith(official.TOWER) for name in shapes):
        if vision_tower is None:
            name = fields.get("mm_vision_tower")
            raise ModelError(f"{source} holds no vision tower; give the folder of {name} with --vision-tower")
        sources.append((tensor_files(vision_tower, allow_pickle=allow_pickle), tower_name))
        tower = str(vision_tower)
    return write_model(scratch, sources, config, processor, dtype, "released LLaVA-Mini", tower, shard_bytes)


def _from_llava(
    source: Path,
    scratch: Path,
    fields: dict[str, Any],
    vision_tower: Path | None,
    tokenizer: Path | None,
    allow_pickle: bool,
    shard_bytes: int,
) -> Converted:
    dtype = precision(fields)
    config = built(source, lambda: llava.our_config(fields))
    words = load_tokenizer(tokenizer or source)
    processor = join_processor(config, words, read_template("vicuna-v1.1"), vision_tower or source)
    files = tensor_files(source, allow_pickle=allow_pickle)
    return write_model(
        scratch, [(files, llava.our_name)], config, processor, dtype, "LLaVA-1.5", "in the checkpoint", shard_bytes
    )


def write_model(
    scratch: Path,
    sources: list[tuple[list[Path], Callable[[str], str | None]]],
    config: LlavaMiniConfig,
    processor: LlavaMiniProcessor,
    dtype: torch.dtype | None,
    form: str,
    tower: str,
    shard_bytes: int,
) -> Converted:
    """Check all names and shapes, then copy tensor by tensor."""
    config.image_token_id = processor.image_token_id
    own, unused = expected(config)
    dropped: list[str] = []
    found: Shapes = {}
    for files, rename in sources:
        for name, shape in read_shapes(files).items():
            ours = rename(name)
            if ours is None:
                dropped.append(name)
                continue
            wanted = own.get(ours, unused.get(ours))
            if wanted is None:
                raise ModelError(f"{name} (here {ours}) is left over: the configuration has no place for it")
            if wanted != shape:
                raise ModelError(f"{name} has shape {shape}; the configuration asks for {wanted}")
            if ours in found:
                raise ModelError(f"{name} and another tensor of the source are both {ours} here")
            found[ours] = shape
    tied = tied_tensors(config)
    if tied & set(found):
        check_tied(sources)
        dropped += sorted(tied & set(found))  # the same numbers are read from the embeddings
    missing = sorted(set(own) - set(found) - tied)
    if missing:
        raise ModelError(f"{missing[0]} is missing in the source, with {len(missing) - 1} others")
    writer = ShardWriter(scratch, shard_bytes)
    aside: dict[str, Tensor] = {}
    for files, rename in sources:
        for name, tensor in read_tensors(files):
            ours = rename(name)
            if ours in own and ours not in tied:
                writer.add(ours, tensor)
            elif ours in unused:
                aside[ours] = tensor.clone()
    writer.close()
    if aside:
        save_file(aside, scratch / UNUSED, metadata={"format": "pt"})
    config.dtype = dtype
    config.architectures = [LlavaMiniForConditionalGeneration.__name__]
    config.save_pretrained(scratch)
    words = processor.tokenizer
    stops = [words.convert_tokens_to_ids(token) for token in ("<|eot_id|>",) if token in words.get_vocab()]
    pad = words.pad_token_id if words.pad_token_id is not None else words.eos_token_id
    stop = sorted({*stops, words.eos_token_id} - {None}) or None
    generation = GenerationConfig(bos_token_id=words.bos_token_id, eos_token_id=stop, pad_token_id=pad)
    if config.image_token_id < config.text.vocab_size:
        generation.suppress_tokens = [config.image_token_id]  # a place for a picture is nothing to say
    generation.save_pretrained(scratch)
    processor.save_pretrained(scratch)
    return Converted(form, len(set(found) - tied) - len(aside), tuple(dropped), len(aside), tower)


def _to_official(source: Path, scratch: Path, vision_tower: Path | None, shard_bytes: int) -> Converted:
    config = built(source, lambda: LlavaMiniConfig.from_pretrained(source))
    tower = str(vision_tower or official.CLIP_VIT_L_336)
    if vision_tower is None and not official.is_known_tower(config.vision):
        tower = "vision_tower"  # a folder beside the weights
        config.vision.save_pretrained(scratch / tower)
    fields = official.released_config(config, vision_tower=tower)
    own, unused = expected(config)
    files = tensor_files(source)
    shapes = read_shapes(files)
    tied = tied_tensors(config)
    wrong = sorted((set(own) - tied) ^ (set(shapes) - tied))
    if wrong:
        problem = "is missing" if wrong[0] in own else "is left over"
        raise ModelError(f"{wrong[0]} {problem} in {source}")
    misshapen = [name for name in shapes if name in own and shapes[name] != own[name]]
    if misshapen:
        name = misshapen[0]
        raise ModelError(f"{name} has shape {shapes[name]}; the configuration asks for {own[name]}")
    rest = _unused_tensors(source / UNUSED, unused, vision_tower)
    writer = ShardWriter(scratch, shard_bytes)
    for name, tensor in read_tensors(files):
        writer.add(official.released_name(name), tensor)
    for name, tensor in rest:
        writer.add(official.released_name(name), tensor)
    writer.close()
    (scratch / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    load_tokenizer(source).save_pretrained(scratch)
    forget_media_tokens(scratch, config.text.vocab_size)
    return Converted("LLaVA-Mini", len(shapes), (), len(unused), "in the checkpoint")


def _unused_tensors(file: Path, wanted: Shapes, vision_tower: Path | None) -> Iterator[tuple[str, Tensor]]:
    """Return the tower's upper layers, from our side file or from a folder of the whole tower."""
    if file.is_file():
        pairs = read_tensors([file])
    elif vision_tower is not None:
        pairs = ((tower_name(name) or "", tensor) for name, tensor in read_tensors(tensor_files(vision_tower)))
    elif wanted:
        raise ModelError(
            f"{file.parent} holds the tower only up to the layer that is used; give the folder of the whole tower "
            "with --vision-tower"
        )
    else:
        pairs = iter(())
    kept = [(name, tensor) for name, tensor in pairs if name in wanted]
    missing = sorted(set(wanted) - {name for name, _ in kept})
    if missing:
        raise ModelError(f"{missing[0]} is missing in the tower")
    for name, tensor in kept:
        if tuple(tensor.shape) != wanted[name]:
            raise ModelError(f"{name} has shape {tuple(tensor.shape)}; the configuration asks for {wanted[name]}")
    return iter(kept)


def tower_name(name: str) -> str | None:
    """Return our name of a tensor of a CLIP folder, None for its text half and its projections."""
    for begins in ("vision_model.", ""):
        rest = name.removeprefix(begins)
        if name.startswith(begins) and rest.startswith(("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")):
            return None if rest.endswith(".position_ids") else ENCODER + rest
    if name.startswith(("text_model.", "visual_projection.", "text_projection.", "logit_scale")):
        return None
    raise ModelError(f"{name} is no tensor of a CLIP tower")
