"""Ways to read a video: the same words, counted alike, and the released way costs more."""

import pytest
from tiny import tiny_model, tiny_processor
from torch.nn import functional as F

from llava_mini import Assistant
from llava_mini.errors import ConfigError
from llava_mini.profiling.flops import count_run
from llava_mini.profiling.ways import compare_ways, divide

FRAMES, WORDS = 3, 5


def make(**changes: int) -> Assistant:
    model = tiny_model(**changes)
    return Assistant(model, tiny_processor(model.config), name="tiny")


def test_all_ways_give_the_same_words_and_the_released_one_computes_more() -> None:
    together, alone, released = compare_ways(make(), FRAMES, WORDS, repeats=1)
    assert [way.name for way in (together, alone, released)] == ["together", "one by one", "released"]
    assert max(way.max_difference for way in (alone, released)) < 1e-5
    assert together.gflops_per_frame == alone.gflops_per_frame < released.gflops_per_frame


def test_the_parts_cost_as_much_as_the_whole() -> None:
    assistant = make()
    whole = compare_ways(assistant, FRAMES, WORDS, repeats=1)[0]
    parts = divide(assistant, FRAMES, WORDS, repeats=1)
    assert sum(part.gflops_per_frame for part in parts) == pytest.approx(whole.gflops_per_frame, abs=1e-5)


def test_attention_is_counted() -> None:
    core = make().model.model
    queries = core.get_input_embeddings().weight[:6].detach().reshape(1, 1, 6, -1)
    width = queries.shape[-1]
    assert count_run(lambda: F.scaled_dot_product_attention(queries, queries, queries)) == 4 * 6 * 6 * width


def test_what_cannot_be_read_is_said() -> None:
    with pytest.raises(ConfigError, match="tiny has no pre-fusion"):
        compare_ways(make(fusion_layers=0), FRAMES, WORDS)
    with pytest.raises(ConfigError, match="must be 1 or more"):
        compare_ways(make(), 0, WORDS)
