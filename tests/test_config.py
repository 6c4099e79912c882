"""Contradictory configurations are refused in the words of the fields; a configuration survives its file."""

from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_config

from llava_mini import LlavaMiniConfig
from llava_mini.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"compression_size": 0}, "compression_size is 0; it must be at least 1"),
        ({"tiles": 0}, "tiles is 0; it must be at least 1"),
        ({"fusion_layers": -1}, "fusion_layers is -1; it must be between 0 and the language model's 3 layers"),
        ({"fusion_layers": 4}, "fusion_layers is 4; it must be between 0 and the language model's 3 layers"),
        ({"compression_heads": 7}, "compression_heads (7) must divide the width (48)"),
        ({"compression_heads": 5, "compression_first": False}, "compression_heads (5) must divide the width (32)"),
        ({"compression_size": 5}, "compression_size is 5; the tower gives only 4 patches a side"),
        (
            {"memory_words": -1},
            "memory_words is -1, compression 'query'; it must be at least 0, and 0 where nothing is compressed",
        ),
        (
            {"memory_words": 5, "compression": "none"},
            "memory_words is 5, compression 'none'; it must be at least 0, and 0 where nothing is compressed",
        ),
        (
            {"fusion_context": 5, "fusion_layers": 0},
            "fusion_context is 5, fusion_layers 0; it must be at least 0, and 0 where nothing is fused",
        ),
        (
            {"projector_classes": 3, "projector_class_channels": 49},
            "projector_class_channels is 49; the tower is 48 wide",
        ),
    ],
)
def test_a_contradiction_is_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_config(**changes)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    "changes",
    [
        {"compression_heads": 7, "compression_attention": "plain"},
        {"compression_size": 99, "compression": "none"},
        {"projector_class_channels": 9999},
    ],
)
def test_a_field_that_is_not_used_contradicts_nothing(changes: dict[str, Any]) -> None:
    tiny_config(**changes)


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(Exception, match="compression"):
        tiny_config(compression="median")


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    config = tiny_config(text="qwen2", vision="siglip", tiles=2, compression_size=3, fusion_residual=True)
    config.save_pretrained(tmp_path)
    loaded = LlavaMiniConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict() | {"_name_or_path": str(tmp_path)} or loaded.to_diff_dict() == (
        config.to_diff_dict()
    )
    assert type(loaded.text) is type(config.text)
    assert loaded.vision.image_size == 56


def test_tied_embeddings_are_taken_from_the_language_model() -> None:
    text = tiny_config().text
    text.tie_word_embeddings = True
    assert tiny_config(text_config=text, tie_word_embeddings=False).tie_word_embeddings


def test_sides_that_the_patch_does_not_divide_are_rounded_up() -> None:
    assert LlavaMiniConfig(vision_config={"model_type": "efficientnet_lite"}).patches_per_side == 9
