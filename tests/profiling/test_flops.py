"""Counts of the real modules are what a pencil gives, part by part, and add up to the whole."""

import json
import sys

import pytest
import torch
from tiny import tiny_config
from torch.utils.flop_counter import FlopCounterMode

from llava_mini import cli
from llava_mini.checkpoints.geometry import geometry
from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import ConfigError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.profiling.flops import Question, count_flops, known_config

WIDTH, MLP, LAYERS, VOCABULARY, FUSION = 4096, 11008, 32, 32000, 4
LINEAR = 2 * (4 * WIDTH**2 + 3 * WIDTH * MLP)  # of a decoder layer, a row: four projections, an MLP of three
KEYS_AND_VALUES = 2 * 2 * WIDTH**2
CLIP = 2 * (4 * 1024**2 + 2 * 1024 * 4096)
PROJECTOR = 2 * (1024 * WIDTH + WIDTH**2)


def layers(count: int, rows: int, kept: int = 0) -> int:
    """Decoder layers over rows that read themselves and what is kept: scores and their sums are rows × all × width."""
    return count * (rows * LINEAR + 2 * 2 * rows * (rows + kept) * WIDTH)


def clip(count: int) -> int:
    patches = 2 * 576 * 3 * 14**2 * 1024
    return patches + count * (577 * CLIP + 2 * 2 * 577**2 * 1024)


def llm(rows: int, kept: int = 0) -> int:
    """All layers, of the last of which the head reads one row: the others need keys and values, and their scores."""
    last = rows * KEYS_AND_VALUES + (LINEAR - KEYS_AND_VALUES) + 2 * 2 * rows * (rows + kept) * WIDTH
    return layers(LAYERS - 1, rows, kept) + last + 2 * WIDTH * VOCABULARY


def test_every_part_is_what_the_formula_says() -> None:
    ways = count_flops(geometry("vicuna-7b"), Question(60, 1, 36))
    pencil = {
        ("llava", "vision"): clip(24),
        ("llava", "projector"): 576 * PROJECTOR,
        ("llava", "llm"): layers(LAYERS, 636) + 636 * 2 * WIDTH * VOCABULARY,
        # one query over 576 patches, in the tower's width: four projections, scores and their sums
        ("released", "compression"): 2 * 1024**2 * (2 + 2 * 576) + 2 * 2 * 576 * 1024,
        ("released", "pre_fusion"): layers(FUSION, 577 + 60),
        ("released", "llm"): layers(LAYERS, 61) + 61 * 2 * WIDTH * VOCABULARY,
        ("first", "vision"): clip(23),
        ("first", "projector"): 577 * PROJECTOR,
        # Three layers of patches, keys and values of the last (and the one query that stands for all of them), then the
        # compressed token and the words, which read what is kept.
        ("first", "pre_fusion"): layers(FUSION - 1, 576)
        + 576 * KEYS_AND_VALUES
        + 2 * WIDTH**2
        + layers(FUSION, 1, 576)
        + layers(FUSION, 60, 577),
        ("first", "llm"): llm(61),
        ("second", "pre_fusion"): layers(FUSION, 60, 577),
        ("shared_prefix", "pre_fusion"): layers(FUSION, 24, 577 + 36),
        ("shared_prefix", "llm"): llm(24, 37),
    }
    for (way, part), flops in pencil.items():
        assert ways[way][part] == pytest.approx(flops / 1e12, rel=1e-9), (way, part)


def test_every_part_in_high_resolution_is_what_the_formula_says() -> None:
    ways = count_flops(geometry("vicuna-7b", tiles=2, compression_size=8), Question())
    patches, tokens = 5 * 576, 64  # four tiles and the whole
    pencil = {
        ("first", "vision"): 5 * clip(23),
        ("first", "projector"): (patches + tokens) * PROJECTOR,
        ("first", "pre_fusion"): layers(FUSION - 1, patches)
        + patches * KEYS_AND_VALUES
        + 2 * WIDTH**2
        + layers(FUSION, tokens, patches)
        + layers(FUSION, 60, patches + tokens),
        ("first", "llm"): llm(tokens + 60),
        ("released", "pre_fusion"): layers(FUSION, patches + tokens + 60),
    }
    for (way, part), flops in pencil.items():
        assert ways[way][part] == pytest.approx(flops / 1e12, rel=1e-9), (way, part)


def test_the_targets_hold_and_the_paper_s_convention_gives_the_paper_s_totals() -> None:
    ways = count_flops(geometry("vicuna-7b"), Question(60, 1, 36))
    totals = {way: parts["total"] for way, parts in ways.items()}
    assert totals["first"] <= 2.03 < totals["released"] < totals["llava"]
    assert totals["second"] <= 0.88
    assert totals["shared_prefix"] <= 0.36
    hd = count_flops(geometry("vicuna-7b", tiles=2, compression_size=8), Question())
    assert hd["first"]["total"] <= 7.91
    paper = count_flops(geometry("vicuna-7b"), Question(43, 1, 36), "paper")
    assert round(paper["llava"]["total"], 2) == 8.55
    assert round(paper["released"]["total"], 2) == 1.96


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"tiles": 2, "compression_size": 2}, {"fusion_context": 6}])
def test_the_parts_are_those_of_one_run_of_the_whole_model(frames: int, changes: dict[str, int]) -> None:
    config: LlavaMiniConfig = tiny_config(**changes)
    tokens = frames * config.tokens_per_frame
    with torch.device("meta"):
        model = LlavaMiniForConditionalGeneration(config).to(torch.bfloat16).eval()
        side = config.vision.image_size
        ids = torch.zeros(1, 10 + tokens, dtype=torch.long)
        pixels = torch.empty(1, frames, config.parts_per_frame, 3, side, side, dtype=torch.bfloat16)
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        model(input_ids=ids, pixel_values=pixels, logits_to_keep=1)
    parts = count_flops(config, Question(10, frames, 0))["first"]
    # On the meta device no id is an image's, so all rows are words to pre-fusion here: only those of its parts differ.
    ours = count_flops(config, Question(10 + tokens, frames, 0))["first"]
    assert whole.get_total_flops() / 1e12 == pytest.approx(
        parts["total"] - parts["pre_fusion"] + ours["pre_fusion"], rel=1e-9
    )


def test_questions_that_make_no_sense_are_refused() -> None:
    for wrong in ({"text_tokens": 0}, {"frames": 0}, {"prefix_tokens": 60}, {"prefix_tokens": -1}):
        with pytest.raises(ConfigError, match="must be 1 or more"):
            Question(**wrong)
    with pytest.raises(ConfigError, match="no pre-fusion"):
        count_flops(tiny_config(fusion_layers=0), Question())
    with pytest.raises(ConfigError, match="no preset is called 'gpt'; there are vicuna-7b, .*, embedded"):
        known_config("gpt", None)
    with pytest.raises(ConfigError, match="nowhere is no folder of a llava_mini model"):
        known_config("", "nowhere")


def test_the_command_prints_both_conventions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--frames", "2", "--text-tokens", "30"]  # fewer words than conversations begin with by default
    monkeypatch.setattr(sys, "argv", ["llava-mini", "profile", "flops", "--preset", "embedded", *short])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    out = capsys.readouterr().out
    assert "everything counted" in out
    assert "the paper's convention" in out
    monkeypatch.setattr(sys, "argv", ["llava-mini", "profile", "flops", "--preset", "embedded", "--json"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    ways = json.loads(capsys.readouterr().out)
    assert list(ways) == ["llava", "released", "first", "second", "shared_prefix"]
    assert all(
        set(parts) == {"total", "vision", "projector", "compression", "pre_fusion", "llm"} for parts in ways.values()
    )
