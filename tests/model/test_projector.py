"""The projectors and the norm equal their formulas."""

import math

import torch

from llava_mini.model.projector import MLPProjector, RMSNorm, SemanticProjector


def features(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_mlp_is_two_linear_layers_around_an_exact_gelu() -> None:
    torch.manual_seed(0)
    made, x = MLPProjector(6, 8), features(2, 3, 6)
    hidden = x @ made.linear_1.weight.T + made.linear_1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(made(x), hidden @ made.linear_2.weight.T + made.linear_2.bias)


def test_the_semantic_projector_adds_a_mean_of_words_and_the_mlp() -> None:
    torch.manual_seed(0)
    made, x = SemanticProjector(10, 8, classes=5, class_channels=6), features(2, 3, 10)
    made.mean.copy_(features(10))
    made.std.copy_(features(10).abs() + 0.5)
    words = made.codebook.weight.T  # one word embedding a class
    for picture in range(2):
        for patch in range(3):
            one = x[picture, patch]
            shares = torch.softmax(made.classifier.weight @ one[:6] + made.classifier.bias, dim=0)
            named = sum(share * word for share, word in zip(shares, words, strict=True))
            expected = named + made.mlp((one - made.mean) / made.std)
            torch.testing.assert_close(made(x)[picture, patch], expected, rtol=1e-4, atol=1e-6)


def test_the_statistics_of_the_semantic_projector_are_saved_and_not_trained() -> None:
    made = SemanticProjector(10, 8, classes=5, class_channels=6)
    assert {"mean", "std"} <= set(made.state_dict())
    assert not {"mean", "std"} & {name for name, _ in made.named_parameters()}


def test_the_norm_brings_any_vector_to_its_scale() -> None:
    out = RMSNorm(16, scale=0.02)(features(4, 16) * 300)
    torch.testing.assert_close(out.pow(2).mean(dim=-1).sqrt(), torch.full((4,), 0.02))


def test_the_norm_computes_in_fp32_and_keeps_the_dtype() -> None:
    x = (features(4, 16) * 1e4).half()  # squares of these are infinite in half precision
    out = RMSNorm(16).half()(x)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), RMSNorm(16)(x.float()), rtol=2e-3, atol=2e-3)
