"""Replay recorded cases of the released program: `python -m tests.parity.replay --golden DIR [--json]`.

Prints one row a case with its largest difference; exit code 1 when one is out of tolerance.
B batch · F frames · P parts · V vision positions · L text.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import llava_mini.auto  # noqa: F401  (registers the classes with transformers)
from llava_mini.checkpoints.official import our_config, our_name
from llava_mini.model.llava_mini import LlavaMiniForConditionalGeneration
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
    model = LlavaMiniForConditionalGeneration(our_config(config, vision, image_token_id=config["vocab_size"]))
    model.set_attn_implementation(attention)
    named = {our_name(name): value.float() for name, value in weights.items()}
    missing, unused = model.load_state_dict({name: v for name, v in named.items() if name}, strict=False)
    assert not missing, missing
    # The tower is cut at the layer that is used; nothing else may be left over.
    assert all(name.startswith("model.vision_tower.encoder.encoder.layers.") for name in unused), unused
    return model.eval()


class _Record:
    """What the pre-fusion layers give, vision rows first, then text rows."""

    def __init__(self, model: LlavaMiniForConditionalGeneration) -> None:
        layers = model.model.pre_fusion.decoder.layers
        self.layers: list[list[Tensor]] = [[] for _ in layers]
        self.hooks = [
            layer.register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out.detach()))
            for layer, kept in zip(layers, self.layers, strict=True)
        ]

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()


def replay(golden: Path, name: str, case: dict[str, Any], attention: str = "sdpa") -> dict[str, float]:
    """Return the largest difference of every recorded tensor of a case."""
    gold = load_file(golden / f"{name}.safetensors")
    pixels = gold["pixel_values"]
    pixels = pixels[:, None] if pixels.ndim == 5 else pixels  # a picture is a video of one frame
    size, tiles = case["compressor_size"], round((pixels.shape[2] - 1) ** 0.5) or 1
    model = load_model(golden, size, tiles, attention)
    ids, spans = _expand(gold["input_ids"], size**2 * pixels.shape[1], model.config.image_token_id)
    mask = _expand(gold["attention_mask"], 1, 1, like=spans)[0] if "attention_mask" in gold else torch.ones_like(ids)
    labels = _expand(gold["labels"], 1, -100, like=spans)[0] if "labels" in gold else None
    record = _Record(model)
    out = model(input_ids=ids, pixel_values=pixels, attention_mask=mask, labels=labels)
    if labels is not None:
        out.loss.backward()
    record.close()
    with torch.no_grad():
        ours = _tensors(model, gold, ids, pixels, mask, labels, record)
    present = mask.bool()
    ours["logits"], gold["logits"] = out.logits.detach()[present], gold["logits"][present]
    differences = {key: _difference(value, gold[key]) for key, value in ours.items() if key in gold}
    if labels is not None:
        differences["loss"] = abs(float(out.loss.detach()) - case["loss"])
        parameters = dict(model.named_parameters())
        for key, value in gold.items():
            if key.startswith("grad/"):
                gradient = parameters[str(our_name(key.removeprefix("grad/")))].grad
                differences[key] = _difference(gradient, value)
    else:
        differences |= _generate(model, gold, case, ids, pixels)
    return differences


def _tensors(
    model: Any,
    gold: dict[str, Tensor],
    ids: Tensor,
    pixels: Tensor,
    mask: Tensor,
    labels: Tensor | None,
    record: _Record,
) -> dict[str, Tensor]:
    """Name our intermediate tensors as the recording does; of text rows, those that are fused."""
    core, config = model.model, model.config
    is_image = ids == config.image_token_id
    fused = mask.bool() & ~is_image
    if labels is not None:
        fused &= labels == -100
    features = core.get_vision_features(pixels).flatten(0, 1)  # (B·F, P, N², d_v)
    projected = core._project(features)
    raster = join_tiles(features, config.tiles)
    compressed = core.compressor(raster)
    prefix = core.encode_images(pixels)
    frames = pixels.shape[1]
    rows = [join_tiles(projected, config.tiles)] + ([projected[:, -1]] if features.shape[1] > 1 else [])
    vision = torch.cat([*rows, core._project(compressed.tokens)], dim=1)
    words = core.get_input_embeddings()(ids.masked_fill(is_image, 0)).repeat_interleave(frames, dim=0)
    text = fused.repeat_interleave(frames, dim=0)
    keep = torch.cat([torch.ones(vision.shape[:2], dtype=torch.bool), text], dim=1)
    # The recording keeps one placeholder a picture: bring its text rows to our length, then take what is fused.
    recorded = ~(gold["input_ids"] == _PLACEHOLDER)
    if "attention_mask" in gold:
        recorded &= gold["attention_mask"].bool()
    if "labels" in gold:
        recorded &= gold["labels"] == -100
    theirs = recorded.repeat_interleave(frames, dim=0)
    their_keep = torch.cat([torch.ones(vision.shape[:2], dtype=torch.bool), theirs], dim=1)
    for key in [key for key in gold if key.startswith("prefusion_out_layer") or key == "prefusion_in"]:
        gold[key] = gold[key][their_keep]
    gold["prefusion_position_ids"] = gold["prefusion_position_ids"][their_keep]
    gold["frame_text_fused"] = gold["frame_text_fused"][theirs]
    gold["final_inputs_embeds"] = gold["final_inputs_embeds"][mask.bool()]
    positions = vision.shape[1] + text.long().cumsum(dim=1) - 1
    whole = torch.cat([torch.arange(vision.shape[1]).expand(len(vision), -1), positions], dim=1)
    outputs = [torch.cat(layer[:2], dim=1)[keep] for layer in record.layers]
    return {
        "clip_features": features.flatten(0, 1),
        "compressor_in": raster,
        "compressor_out_preproj": compressed.tokens,
        "compressor_attn_mean_heads": compressed.weights,
        "prefusion_in": torch.cat([vision, words], dim=1)[keep],
        "prefusion_position_ids": whole[keep],
        **{f"prefusion_out_layer{index}": out for index, out in enumerate(outputs)},
        "frame_compressed_after_prefusion": prefix.tokens.flatten(0, 1),
        "frame_text_fused": torch.cat(record.layers[-1][1:2], dim=1)[text],
        "final_inputs_embeds": core.embed(
            ids, prefix, attention_mask=mask, instruction_mask=None if labels is None else labels == -100
        )[mask.bool()],
    }


@torch.no_grad()
def _generate(
    model: Any, gold: dict[str, Tensor], case: dict[str, Any], ids: Tensor, pixels: Tensor
) -> dict[str, float]:
    made = model.generate(
        input_ids=ids,
        pixel_values=pixels,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=case["max_new_tokens"],
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    tokens = made.sequences[:, ids.shape[1] :]
    return {
        "generated_ids": float((tokens != gold["generated_ids"]).sum()),
        "generated_scores": _difference(torch.stack(made.logits, dim=1), gold["generated_scores"]),
    }


def _expand(
    rows: Tensor, repeats: int, token: int, *, like: list[list[int]] | None = None
) -> tuple[Tensor, list[list[int]]]:
    """Repeat each placeholder for the vision tokens that stand for it; the same places in masks and labels."""
    spans = like or [[repeats if value == _PLACEHOLDER else 1 for value in row] for row in rows.tolist()]
    made = []
    for row, counts, length in zip(rows.tolist(), spans, [len(rows[0])] * len(rows), strict=True):
        assert length == len(counts)
        made.append(
            [
                token if n > 1 or value == _PLACEHOLDER else value
                for value, n in zip(row, counts, strict=True)
                for _ in range(n)
            ]
        )
    longest = max(map(len, made))
    return torch.tensor([row + [0] * (longest - len(row)) for row in made]), spans


def _difference(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        raise ValueError(f"shape {tuple(ours.shape)}, recorded {tuple(theirs.shape)}")
    return float((ours.float() - theirs.float()).abs().max())


def passes(differences: dict[str, float]) -> bool:
    """Tell whether every tensor is within its tolerance."""
    return all(value <= TOLERANCE.get(name, _EMBEDDINGS) for name, value in differences.items())


def main() -> int:
    """Replay a folder of cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa")
    options = parser.parse_args()
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
