"""Engines are asked the same questions, and compared with the first of them."""

from PIL import Image
from tiny import tiny_model, tiny_processor

from llava_mini import Assistant
from llava_mini.engines import attach
from llava_mini.evaluation.controls import Item
from llava_mini.evaluation.engines import compare_engines
from llava_mini.inputs.media import Picture


def test_an_engine_is_compared_with_the_first_one() -> None:
    def load(engine: str) -> Assistant:
        model = tiny_model()
        model.generation_config.eos_token_id = None
        attach(model, engine)
        return Assistant(model, tiny_processor(), engine=engine)

    red, blue = [Picture(Image.new("RGB", (50, 40), colour), colour) for colour in ("red", "blue")]
    asked = [
        (red, Item("kind", 0, "What is this?", lambda text: True)),
        (blue, Item("kind", 1, "What colour?", lambda text: False)),
    ]
    told: list[None] = []
    plain, again, small = compare_engines(load, ["torch", "torch", "int8"], asked, lambda: told.append(None))
    assert len(told) == 6
    assert plain == type(plain)(
        **{**vars(again), "first_token_s": plain.first_token_s, "tokens_per_s": plain.tokens_per_s}
    )
    assert (plain.n, plain.same, plain.right) == (2, 1.0, 0.5)
    assert small.engine == "int8"
    assert 0 < small.weights_mb < plain.weights_mb
