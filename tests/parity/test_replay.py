"""The released program's recorded numbers come out of our model, with both kinds of attention."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.parity.replay import main, passes, replay

GOLDEN = Path(os.environ.get("LLAVA_MINI_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
CASES = json.loads((GOLDEN / "index.json").read_text())["cases"] if (GOLDEN / "index.json").is_file() else {}


@pytest.mark.skipif(not CASES, reason="the recorded numbers are not here: set LLAVA_MINI_GOLDEN to their folder")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["kind"] in ("inference", "training")])
def test_a_recorded_case_comes_out_within_tolerance(name: str, attention: str) -> None:
    differences = replay(GOLDEN, name, CASES[name], attention)
    assert passes(differences), differences


def regrouped(folder: Path) -> dict[str, object]:
    """Write recorded cases 1 (a picture) and 4 (a video of four frames) as one right-padded batch of two lists."""
    picture, video = (load_file(GOLDEN / f"{name}.safetensors") for name in ("case1_image_c1", "case4_video_c1"))

    def padded(key: str) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([picture[key][0], video[key][0]], batch_first=True)

    ids = padded("input_ids")
    lengths = torch.tensor([case["input_ids"].shape[1] for case in (picture, video)])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    batch = {key: padded(key).contiguous() for key in ("final_inputs_embeds", "logits")}
    whole = {key: torch.cat([picture[key], video[key]]).contiguous() for key in ("generated_ids", "generated_scores")}
    vision = ("compressor_in", "compressor_out_preproj", "frame_compressed_after_prefusion")
    frames = {key: torch.cat([picture[key], video[key]]).contiguous() for key in vision}
    pixels = {"pixel_values_0": picture["pixel_values"][0].clone(), "pixel_values_1": video["pixel_values"][0].clone()}
    save_file(
        {"input_ids": ids, "attention_mask": mask, **batch, **whole, **frames, **pixels}, folder / "mixed.safetensors"
    )
    (folder / "official_tiny").symlink_to(GOLDEN / "official_tiny")
    return {"kind": "inference", "compressor_size": 1, "max_new_tokens": 8}


@pytest.mark.skipif(not CASES, reason="the recorded numbers are not here: set LLAVA_MINI_GOLDEN to their folder")
def test_a_picture_and_a_video_in_one_padded_batch_give_what_each_gave_alone(tmp_path: Path) -> None:
    differences = replay(tmp_path, "mixed", regrouped(tmp_path))
    assert {"logits", "generated_ids", "generated_scores", "final_inputs_embeds", "compressor_in"} <= set(differences)
    assert passes(differences), differences


@pytest.mark.skipif(not CASES, reason="the recorded numbers are not here: set LLAVA_MINI_GOLDEN to their folder")
def test_a_wrong_number_fails_the_replay_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = regrouped(tmp_path)
    tensors = load_file(tmp_path / "mixed.safetensors")
    tensors["logits"][0, 0, 0] += 0.01
    save_file(tensors, tmp_path / "mixed.safetensors")
    (tmp_path / "index.json").write_text(json.dumps({"cases": {"mixed": case}}))
    assert main(["--golden", str(tmp_path), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["mixed"]["passed"] is False
    assert said["mixed"]["max_abs_diff"]["logits"] == pytest.approx(0.01, abs=1e-3)
