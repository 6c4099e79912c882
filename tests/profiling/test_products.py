"""Products are timed in every shape that the language model has, and plain and packed ones agree."""

import pytest
import torch
from tiny import tiny_config

from llava_mini.errors import ConfigError
from llava_mini.profiling import products


def test_every_matrix_of_a_layer_is_multiplied_by_every_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_BYTES", 1e5)
    monkeypatch.setattr(products, "_SUMMED", 1000)
    text = tiny_config().text
    read, made = products.time_products(tiny_config(), torch.float32, rows=(1, 3), repeats=1)
    assert read > 0
    d, d_ff = text.hidden_size, text.intermediate_size
    shapes = [(d, d), (d_ff, d), (d, d_ff)]
    assert [(one.outputs, one.inputs, one.rows) for one in made] == [(*s, rows) for s in shapes for rows in (1, 3)]
    assert all(one.plain_gb_s >= 0 and one.difference < 1e-5 for one in made)


def test_products_of_no_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be 1 or more"):
        products.time_products(tiny_config(), torch.float32, rows=())
