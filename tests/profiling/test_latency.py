"""Variants compute the same thing before they are timed, and what is counted is what a pencil gives."""

import json
import sys

import pytest
import torch
from tiny import tiny_config, tiny_model

from llava_mini import cli
from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import ConfigError
from llava_mini.profiling.forms import all_tokens_of, random_model, transformers_llava
from llava_mini.profiling.latency import time_variants
from llava_mini.profiling.machine import matmul_rate, read_rate
from llava_mini.profiling.memory import measure_memory
from llava_mini.profiling.variants import FORMS, Work, ready_variants

WORK = Work(text_tokens=8, system_tokens=3, frames=2, new_tokens=2)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return random_model(tiny_config(), torch.float32)


@torch.no_grad()
def test_the_three_programs_share_weights_and_two_of_them_answer_alike() -> None:
    torch.manual_seed(0)
    mini = tiny_model().eval()
    ours, theirs = all_tokens_of(mini), transformers_llava(mini)
    for made in (ours, theirs):
        assert made.model.language_model is mini.model.language_model
        assert not any(parameter.is_meta for parameter in made.parameters())
    config = mini.config
    ids = torch.randint(3, config.text.vocab_size - 1, (1, 8))
    pixels = torch.randn(1, 1, 1, 3, config.vision.image_size, config.vision.image_size)
    place = torch.full((1, config.all_tokens_per_frame), config.image_token_id)
    left = ours(input_ids=torch.cat([ids[:, :3], place, ids[:, 3:]], dim=1), pixel_values=pixels).logits
    place = torch.full_like(place, theirs.config.image_token_id)
    right = theirs(input_ids=torch.cat([ids[:, :3], place, ids[:, 3:]], dim=1), pixel_values=pixels[0, 0]).logits
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_a_random_model_is_whole_in_its_precision_and_the_same_each_time() -> None:
    made, again = (random_model(tiny_config(), torch.bfloat16) for _ in range(2))
    for (name, one), other in zip(made.named_parameters(), again.parameters(), strict=True):
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, other), name
        assert one.isfinite().all()
    assert torch.get_default_dtype() == torch.float32


def test_every_variant_is_timed_as_often_as_asked(model: torch.nn.Module) -> None:
    told: list[str] = []
    machine, made = time_variants(model, WORK, forms=FORMS, repeats=2, on_done=told.append)
    assert machine.matmul_gflops > 0
    assert machine.read_gb_s > 0
    every = [(form, asked) for form in ("mini", "all-tokens", "transformers") for asked in ("first", "second", "video")]
    every += [("mini-kept", "second"), ("all-tokens-kept", "second")]
    assert {(row.form, row.asked) for row in made} == set(every)
    assert len(told) == 3 * len(made)
    for row in made:
        assert row.ttft_s > 0
        assert (row.tokens_per_s is not None) == (row.asked == "first")
    work = {(row.form, row.asked): row.tflops for row in made}
    assert work["mini", "second"] < work["mini", "first"] < work["mini", "video"]
    assert work["mini-kept", "second"] < work["mini", "second"]
    assert work["all-tokens-kept", "second"] < work["all-tokens", "second"] == work["all-tokens", "first"]


@torch.no_grad()
def test_a_question_on_kept_words_leaves_what_the_whole_one_leaves(model: torch.nn.Module) -> None:
    whole, kept = ready_variants(model, WORK, ("mini", "mini-kept"), ("second",))
    token, cache = whole.first_token()
    for _ in range(2):
        again, grown = kept.first_token()
        assert torch.equal(again, token)
        for one, other in zip(grown.layers, cache.layers, strict=True):
            torch.testing.assert_close(one.keys, other.keys, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(one.values, other.values, rtol=1e-4, atol=1e-5)


def test_memory_of_each_variant_is_what_its_shapes_say(model: torch.nn.Module) -> None:
    config = model.config
    made = {(row.form, row.asked): row for row in measure_memory(model, WORK, forms=FORMS)}
    row_bytes = 2 * 4 * config.text.num_hidden_layers * config.text.num_key_value_heads * 8
    assert made["mini", "first"].cache_mb == pytest.approx(9 * row_bytes / 1e6, abs=1e-3)
    rows = 8 + config.all_tokens_per_frame
    assert made["all-tokens", "first"].cache_mb == pytest.approx(rows * row_bytes / 1e6, abs=1e-3)
    kept = made["all-tokens-kept", "second"].kept_mb
    assert kept == pytest.approx((rows - 5) * row_bytes / 1e6, abs=1e-3)
    assert all(row.peak_mb >= row.cache_mb for row in made.values() if row.asked == "first")
    assert made["mini", "first"].weights_mb == pytest.approx(
        sum({p.data_ptr(): p.nbytes for p in model.parameters()}.values()) / 1e6, abs=1e-3
    )


def test_rates_of_the_machine_are_rates() -> None:
    device = torch.device("cpu")
    assert matmul_rate(device, torch.float32, times=1) > 1e6
    assert read_rate(device, times=1) > 1e6


def test_one_json_line_names_machine_method_and_every_variant(
    capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config().save_pretrained(tmp_path)
    arguments = ["--model", str(tmp_path), "--text-tokens", "6", "--frames", "2", "--compare", "--json"]
    asked = ["--asked", "first", "--asked", "second"]
    monkeypatch.setattr(sys, "argv", ["llava-mini", "profile", "latency", *arguments, *asked, "--repeats", "1"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    made = json.loads(capsys.readouterr().out)
    assert set(made) == {"machine", "method", "timings"}
    assert len(made["timings"]) == 8
    monkeypatch.setattr(sys, "argv", ["llava-mini", "profile", "memory", *arguments, *asked])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    made = json.loads(capsys.readouterr().out)
    assert set(made) == {"machine", "method", "memory"}
    assert made["method"]["text_tokens"] == 6
    assert len(made["memory"]) == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"system_tokens": 60}, "fewer than text_tokens"),
        ({"frames": 0}, "1 or more"),
        ({"new_tokens": 0}, "1 or more"),
    ],
)
def test_work_that_makes_no_sense_is_refused(changes: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Work(**changes)


def test_what_cannot_be_compared_is_said(model: torch.nn.Module) -> None:
    with pytest.raises(ConfigError, match="no form is called 'vit'"):
        time_variants(model, WORK, forms=("vit",))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="mini-kept keep what was asked before; ask them second"):
        time_variants(model, WORK, forms=("mini-kept",), asked=("first",))
    with pytest.raises(ConfigError, match="repeats is 0"):
        time_variants(model, WORK, repeats=0)
    plain = LlavaMiniConfig.from_dict(tiny_config().to_dict() | {"fusion_layers": 0})
    with pytest.raises(ConfigError, match="no pre-fusion"):
        time_variants(random_model(plain, torch.float32), WORK)
    tiles = LlavaMiniConfig.from_dict(tiny_config().to_dict() | {"tiles": 2})
    with pytest.raises(ConfigError, match="no tiles"):
        transformers_llava(random_model(tiles, torch.float32))


def test_a_packed_engine_is_timed_in_every_form_and_another_is_refused() -> None:
    model = random_model(tiny_config(), torch.float32)
    machine, made = time_variants(model, WORK, forms=FORMS, asked=("first",), repeats=1, engine="packed")
    assert machine.row_gb_s > 0
    assert {row.form for row in made} == {"mini", "all-tokens", "transformers"}
    assert all(row.tflops > 0 and row.row_share is not None for row in made)
    with pytest.raises(ConfigError, match="engine is 'int8'; torch and packed are timed"):
        time_variants(model, WORK, engine="int8")
