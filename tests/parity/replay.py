"""Replay recorded cases of the released program: `python -m tests.parity.replay --golden DIR [--json]`.

Prints one row a case with its largest difference; exit code 1 when one is out of tolerance.
B batch · F frames · P parts · V vision positions · L text.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import llava_mini.auto  # noqa: F401  (registers the classes with transformers)
from llava_mini.checkpoints.official import our_config, our_name
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.splice import join_tiles

TOLERANCE = {"logits": 1e-4, "generated_scores": 1e-4, "loss": 1e-4}
_EMBEDDINGS = 2e-5
_PLACEHOLDER = -200


def load_model(golden: Path, size: int, tiles: int, attention: str) -> LlavaMiniForConditionalGeneration:
    """Build the recorded tiny model: C=1 is the C=2 file with two tensors replaced."""
    folder = golden / "official_tiny"
    config = json.loads((folder / f"c{size}" / "config.json").read_text()) | {"resolution_ratio": tiles}
    vision = json.loads((folder / "clip" / "config.json").read_text())
    weights = load_file(folder / "c2" / "model.safetensors")
    if size == 1:
        weights |= load_file(folder / "c1" / "override.safetensors")
    ours = our_config(config, vision, image_token_id=config["vocab_size"])
    ours.token_zero_is_padding = True  # as released
    model = LlavaMiniForConditionalGeneration(ours)
    model.set_attn_implementation(attention)
    named = {our_name(name): value.float() for name, value in weights.items()}
    missing, unused = model.load_state_dict({name: v for name, v in named.items() if name}, strict=False)
    assert not missing, missing
    # The tower is cut at the layer that is used; nothing else may be left over.
    assert all(name.startswith("model.vision_tower.encoder.encoder.layers.") for name in unused), unused
    return model.eval()


def _layers(decoder: Any, rows: Tensor, mask: Tensor, positions: Tensor) -> list[Tensor]:
    """Run vision and words `(B·F, V + L, d)` through pre-fusion at once; return what each layer gives."""
    outputs: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _m, _i, out: outputs.append(out)) for layer in decoder.layers]
    decoder(inputs_embeds=rows, attention_mask=mask.long(), position_ids=positions.clamp(min=0), use_cache=False)
    for hook in hooks:
        hook.remove()
    return outputs


def _pixels(gold: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return a case's pixels `(B, F, P, 3, H, W)` and its frames a row `(B,)`.

    Recorded are pictures `(B, P, 3, H, W)` or videos `(B, F, P, 3, H, W)`, stacked in `pixel_values`, or one sample
    each, without B, in `pixel_values_{i}`.
    """
    if "pixel_values" in gold:
        stacked = gold["pixel_values"]
        stacked = stacked[:, None] if stacked.ndim == 5 else stacked  # a picture is a video of one frame
        return stacked, torch.full((len(stacked),), stacked.shape[1])
    names = sorted((key for key in gold if re.fullmatch(r"pixel_values_\d+", key)), key=lambda k: int(k.split("_")[-1]))
    samples = [gold[name][None] if gold[name].ndim == 4 else gold[name] for name in names]
    frames = torch.tensor([len(sample) for sample in samples])
    return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True), frames


def replay(golden: Path, name: str, case: dict[str, Any], attention: str = "sdpa") -> dict[str, float]:
    """Return the largest difference of every recorded tensor of a case."""
    gold = load_file(golden / f"{name}.safetensors")
    pixels, frames = _pixels(gold)
    size, tiles = case["compressor_size"], round((pixels.shape[2] - 1) ** 0.5) or 1
    model = load_model(golden, size, tiles, attention)
    repeats = [size**2 * count for count in frames.tolist()]
    ids, spans = _expand(gold["input_ids"], repeats, model.config.image_token_id)
    mask = _expand(gold["attention_mask"], [], 1, like=spans)[0] if "attention_mask" in gold else torch.ones_like(ids)
    labels = _expand(gold["labels"], [], -100, like=spans)[0] if "labels" in gold else None
    if labels is not None:
        labels[mask == 0] = -100
    out = model(input_ids=ids, pixel_values=pixels, attention_mask=mask, labels=labels)
    if labels is not None:
        out.loss.backward()
    with torch.no_grad():
        ours = _tensors(model, gold, ids, pixels, frames, mask, labels)
    if "logits" in gold:
        present = mask.bool()
        ours["logits"], gold["logits"] = out.logits.detach()[present], _as(gold["logits"], present)
    differences = {key: _difference(value, gold[key]) for key, value in ours.items() if key in gold}
    if labels is not None:
        differences["loss"] = abs(float(out.loss.detach()) - case["loss"])
        parameters = dict(model.named_parameters())
        for key, value in gold.items():
            if key.startswith("grad/"):
                gradient = parameters[str(our_name(key.removeprefix("grad/")))].grad
                differences[key] = _difference(gradient, value)
    elif "generated_ids" in gold:
        differences |= _generate(model, gold, case, ids, pixels, mask)
    return differences


def _as(recorded: Tensor, present: Tensor) -> Tensor:
    """Take the rows of real tokens from a recording `(B, L, ·)`; a recording may be longer by padding."""
    return recorded[:, : present.shape[1]][present]


def _tensors(
    model: Any,
    gold: dict[str, Tensor],
    ids: Tensor,
    pixels: Tensor,
    frames: Tensor,
    mask: Tensor,
    labels: Tensor | None,
) -> dict[str, Tensor]:
    """Name our intermediate tensors as the recording does; of text rows, those that are fused."""
    core, config = model.model, model.config
    is_image = ids == config.image_token_id
    fused = mask.bool() & ~is_image & (ids != 0)
    if labels is not None:
        fused &= labels == -100
    features = core.get_vision_features(pixels).flatten(0, 1)  # (B·F, P, N², d_v)
    projected = core._project(features)
    raster = join_tiles(features, config.tiles)
    compressed = core.compressor(raster)
    prefix = core.encode_images(pixels, frames=frames)
    longest = pixels.shape[1]
    real = (torch.arange(longest) < frames[:, None]).flatten()
    rows = [join_tiles(projected, config.tiles)] + ([projected[:, -1]] if features.shape[1] > 1 else [])
    vision = torch.cat([*rows, core._project(compressed)], dim=1)
    words = core.get_input_embeddings()(ids.masked_fill(is_image, 0)).repeat_interleave(longest, dim=0)
    text = fused.repeat_interleave(longest, dim=0)
    keep = torch.cat([torch.ones(vision.shape[:2], dtype=torch.bool), text], dim=1) & real[:, None]
    # The recording keeps one placeholder a picture: bring its text rows to our length, then take what is fused.
    recorded = ~(gold["input_ids"] == _PLACEHOLDER) & (gold["input_ids"] != 0)
    if "attention_mask" in gold:
        recorded &= gold["attention_mask"].bool()
    if "labels" in gold:
        recorded &= gold["labels"] == -100
    theirs = recorded.repeat_interleave(frames, dim=0)
    their_keep = torch.cat([torch.ones(len(theirs), vision.shape[1], dtype=torch.bool), theirs], dim=1)
    for key in gold:
        if (key.startswith("prefusion_out_layer") or key in ("prefusion_in", "prefusion_position_ids")) and (
            gold[key].shape[:2] == their_keep.shape
        ):
            gold[key] = gold[key][their_keep]
    if "frame_text_fused" in gold and gold["frame_text_fused"].shape[:2] == theirs.shape:
        gold["frame_text_fused"] = gold["frame_text_fused"][theirs]
    if "final_inputs_embeds" in gold:
        gold["final_inputs_embeds"] = _as(gold["final_inputs_embeds"], mask.bool())
    positions = vision.shape[1] + text.long().cumsum(dim=1) - 1
    whole = torch.cat([torch.arange(vision.shape[1]).expand(len(vision), -1), positions], dim=1)
    rows_in = torch.cat([vision, words], dim=1)
    outputs = _layers(core.pre_fusion.decoder, rows_in, keep, whole)
    by_frame = core.pre_fusion.fuse(words[real], text[real], prefix.states)
    return {
        "clip_features": features[real].flatten(0, 1),
        "compressor_in": raster[real],
        "compressor_out_preproj": compressed[real],
        "compressor_attn_mean_heads": core.compressor.look(raster)[real],
        "prefusion_in": rows_in[keep],
        "prefusion_position_ids": whole[keep],
        **{f"prefusion_out_layer{index}": out[keep] for index, out in enumerate(outputs)},
        "frame_compressed_after_prefusion": prefix.tokens,
        "frame_text_fused": by_frame[text[real]],
        "final_inputs_embeds": core.embed(
            ids, prefix, attention_mask=mask, instruction_mask=None if labels is None else labels == -100
        )[mask.bool()],
    }


@torch.no_grad()
def _generate(
    model: Any, gold: dict[str, Tensor], case: dict[str, Any], ids: Tensor, pixels: Tensor, mask: Tensor
) -> dict[str, float]:
    differences: dict[str, float] = {}
    for row, present in enumerate(mask.bool()):  # one by one: the released program cannot answer a padded batch
        made = model.generate(
            input_ids=ids[row, present][None],
            pixel_values=pixels[row : row + 1],
            attention_mask=mask[row, present][None],
            max_new_tokens=case["max_new_tokens"],
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        found = {"generated_ids": (made.sequences[:, int(present.sum()) :] != gold["generated_ids"][row]).sum().float()}
        if "generated_scores" in gold:
            found["generated_scores"] = (torch.stack(made.logits, dim=1)[0] - gold["generated_scores"][row]).abs().max()
        for key, value in found.items():
            differences[key] = max(differences.get(key, 0.0), float(value))
    return differences


def _expand(
    rows: Tensor, repeats: list[int], token: int, *, like: list[list[int]] | None = None
) -> tuple[Tensor, list[list[int]]]:
    """Repeat each placeholder for the vision tokens that stand for it; the same places in masks and labels."""
    spans = like or [
        [count if value == _PLACEHOLDER else 1 for value in row]
        for row, count in zip(rows.tolist(), repeats, strict=True)
    ]
    made = [
        [
            token if count > 1 or value == _PLACEHOLDER else value
            for value, count in zip(row, counts, strict=True)
            for _ in range(count)
        ]
        for row, counts in zip(rows.tolist(), spans, strict=True)
    ]
    longest = max(map(len, made))
    return torch.tensor([row + [0] * (longest - len(row)) for row in made]), spans


def _difference(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return math.inf
    return float((ours.float() - theirs.float()).abs().max())


def passes(differences: dict[str, float]) -> bool:
    """Tell whether every tensor is within its tolerance."""
    return all(value <= TOLERANCE.get(name, _EMBEDDINGS) for name, value in differences.items())


def main(arguments: list[str] | None = None) -> int:
    """Replay a folder of cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa")
    options = parser.parse_args(arguments)
    if not (options.golden / "index.json").is_file():
        parser.error(f"{options.golden} holds no index.json of recorded cases")
    cases = json.loads((options.golden / "index.json").read_text())["cases"]
    results = {}
    for name, case in cases.items():
        if case["kind"] in ("inference", "training"):
            differences = replay(options.golden, name, case, options.attention)
            results[name] = {"passed": passes(differences), "max_abs_diff": differences}
            if not options.json:
                worst = max(differences, key=lambda key: differences[key])
                print(f"{name:<32}{'ok' if passes(differences) else 'FAILED':<8}{worst} {differences[worst]:.2e}")
    if options.json:
        print(json.dumps(results))
    return 0 if all(result["passed"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
