"""Pictures are encoded once: the kept prefix gives what the pixels give, for any choice of rows."""

import pytest
import torch
from tiny import pixels, row, tiny_model

from llava_mini import VisionPrefix
from llava_mini.errors import InputError

FORMS = {
    "all_tokens": {"compression": "none", "fusion_layers": 0},
    "released": {},
    "paper": {"compression_first": False, "compression_attention": "plain", "fuse_compressed": False},
}


def same(first: VisionPrefix, second: VisionPrefix) -> None:
    """Fail where two prefixes differ."""
    torch.testing.assert_close(first.tokens, second.tokens, rtol=1e-4, atol=1e-5)
    assert len(first.states) == len(second.states)
    for one, other in zip(first.states, second.states, strict=True):
        torch.testing.assert_close(one.keys, other.keys, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.values, other.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_pixels_features_and_prefix_give_the_same_logits(form: str) -> None:
    model = tiny_model(**FORMS[form])
    ids, video = row(2, tokens_per_frame=model.config.tokens_per_frame), pixels(2)
    expected = model(input_ids=ids, pixel_values=video).logits
    features = model.model.get_vision_features(video)
    assert features.shape == (1, 2, 1, 16, 48)
    assert torch.equal(model(input_ids=ids, vision_features=features).logits, expected)
    prefix = model.encode_images(video)
    assert torch.equal(model(input_ids=ids, vision_prefix=prefix).logits, expected)
    assert torch.equal(model(input_ids=ids, vision_prefix=prefix).logits, expected)  # and again: nothing was used up


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_rows_of_a_prefix_can_be_chosen_repeated_and_joined(form: str) -> None:
    model = tiny_model(**FORMS[form])
    videos = pixels(2, batch=3)
    whole = model.encode_images(videos)
    chosen = torch.tensor([2, 0, 2])
    same(whole.select(chosen), model.encode_images(videos[chosen]))
    parts = [model.encode_images(videos[i : i + 1]) for i in range(3)]
    same(VisionPrefix.concatenate(parts), whole)
    assert whole.frames.tolist() == [2, 2, 2]
    ragged = model.encode_images(videos, frames=torch.tensor([1, 0, 2]))
    assert ragged.frames.tolist() == [1, 0, 2]
    same(
        ragged.select(torch.tensor([2, 1, 0])),
        VisionPrefix.concatenate([parts[2], model.encode_images(videos[:1, :1])]),
    )


@torch.no_grad()
def test_several_questions_share_one_encoding() -> None:
    model, picture = tiny_model(), pixels()
    questions = torch.cat([row(seed=1), row(seed=2), row(seed=3)])
    shared = model.encode_images(picture).select(torch.zeros(3, dtype=torch.long))
    together = model(input_ids=questions, vision_prefix=shared).logits
    for index in range(3):
        alone = model(input_ids=questions[index : index + 1], pixel_values=picture).logits
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_what_is_kept_has_the_size_that_it_says() -> None:
    prefix = tiny_model().encode_images(pixels(2))
    positions = 16 + 1  # patches and the compressed token
    states = 2 * 2 * positions * 2 * 8  # layers · keys and values · positions · heads · width
    assert prefix.nbytes == 4 * 2 * (32 + states)


@torch.no_grad()
def test_where_compression_looks_are_shares_of_which_the_token_is_the_sum() -> None:
    plain = {"compression_first": False, "compression_attention": "plain", "fuse_compressed": False}
    for changes in (
        {},
        plain,
        {"compression": "average", "compression_size": 2},
        {"compression_first": False, "tiles": 2},
    ):
        model = tiny_model(**changes)
        shown = pixels(2, model.config.parts_per_frame)
        looked = model.model.look(shown)
        assert looked.shape == (2, model.config.tokens_per_frame, 16 * model.config.tiles**2)
        torch.testing.assert_close(looked.sum(dim=-1), torch.ones(looked.shape[:-1]))
        if changes is plain:
            patches = model.model._project(model.model.get_vision_features(shown)[0, :, 0])
            torch.testing.assert_close(looked @ patches, model.encode_images(shown).tokens, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="keeps all tokens"):
        tiny_model(compression="none").model.look(pixels())
