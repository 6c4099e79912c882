"""The cut tower gives the hidden state of the whole tower; EfficientNet-Lite is a tower like the others."""

import pytest
import torch
from tiny import tiny_config, tiny_model
from torch import nn
from transformers import AutoModel

from llava_mini.config import EfficientNetLiteConfig
from llava_mini.errors import ConfigError
from llava_mini.model.efficientnet_lite import EfficientNetLite
from llava_mini.model.vision_tower import VisionTower


def pictures(batch: int = 2, side: int = 56) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("vision", ["clip", "siglip"])
@pytest.mark.parametrize("layer", [-2, -1, 1])
def test_the_cut_tower_gives_the_hidden_state_of_the_whole_tower(vision: str, layer: int) -> None:
    torch.manual_seed(0)
    config = tiny_config(vision=vision).vision
    whole = AutoModel.from_config(config).eval()
    cut = VisionTower(config, layer).eval()
    missing, _ = cut.encoder.load_state_dict(whole.state_dict(), strict=False)
    assert not missing
    with torch.no_grad():
        expected = whole(pictures(), output_hidden_states=True).hidden_states[layer]
        out = cut(pictures())
    torch.testing.assert_close(out, expected[:, 1:] if vision == "clip" else expected)
    assert out.shape == (2, 16, 48)


@pytest.mark.parametrize("vision", ["clip", "siglip"])
@pytest.mark.parametrize("layer", [-3, -2, -1, 1, 2, 3])
@torch.no_grad()
def test_a_tower_that_keeps_one_hidden_state_gives_it_bit_for_bit(vision: str, layer: int) -> None:
    tower = VisionTower(tiny_config(vision=vision).vision, layer).eval()
    out = tower.encoder(pictures(), output_hidden_states=True)
    assert torch.equal(tower(pictures()), out.hidden_states[-1][:, -16:])
    kept = tower.encoder(pictures(), output_hidden_states=[tower.layer]).hidden_states
    assert [state is not None for state in kept] == [False] * (len(out.hidden_states) - 1) + [True]


def test_layers_above_the_one_used_do_not_exist() -> None:
    config = tiny_config().vision
    sizes = [sum(p.numel() for p in VisionTower(config, layer).parameters()) for layer in (-3, -2, -1)]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("layer", [0, 4, -4, -9])
def test_a_layer_that_the_tower_has_not_is_refused(layer: int) -> None:
    with pytest.raises(ConfigError, match=f"vision_feature_layer is {layer}; the tower has 3 layers"):
        VisionTower(tiny_config().vision, layer)


@pytest.mark.parametrize("vision", ["clip", "siglip"])
def test_a_picture_is_encoded_the_same_alone_and_in_a_batch(vision: str) -> None:
    tower = VisionTower(tiny_config(vision=vision).vision, -2).eval()
    with torch.no_grad():
        torch.testing.assert_close(tower(pictures()[:1]), tower(pictures())[:1], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def lite() -> VisionTower:
    torch.manual_seed(0)
    tower = VisionTower(EfficientNetLiteConfig(), None)
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return tower


@torch.no_grad()
def test_efficientnet_lite_gives_81_cells_of_1504_channels_alone_and_in_a_batch(lite: VisionTower) -> None:
    together = lite(pictures(2, 260))
    assert together.shape == (2, 81, 1504)
    alone = lite(pictures(2, 260)[1:])
    assert alone.shape == (1, 81, 1504)
    torch.testing.assert_close(alone[0], together[1], rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_efficientnet_lite_keeps_its_statistics_in_training(lite: VisionTower) -> None:
    before = {name: value.clone() for name, value in lite.state_dict().items()}
    expected = lite.eval()(pictures(1, 64))
    lite.train()
    assert not any(module.training for module in lite.encoder.modules())
    lite.side = 2  # 64 px: 2×2 cells
    torch.testing.assert_close(lite(pictures(1, 64)), expected[:, -4:])
    lite.side = 9
    assert all(torch.equal(value, before[name]) for name, value in lite.state_dict().items())


@torch.no_grad()
def test_the_cells_of_efficientnet_lite_run_from_top_left_to_bottom_right() -> None:
    torch.manual_seed(0)
    tower = EfficientNetLite(EfficientNetLiteConfig()).eval()
    blank, corner = torch.zeros(1, 3, 260, 260), torch.zeros(1, 3, 260, 260)
    corner[..., :40, 220:] = 1.0  # top right
    changed = (tower(corner).last_hidden_state - tower(blank).last_hidden_state).abs().sum(dim=-1)[0]
    assert int(changed.argmax()) in (7, 8)


@torch.no_grad()
def test_a_convolution_pads_as_tensorflow_does() -> None:
    # TensorFlow's SAME at stride 2 on an even side pads right and below only; on an odd side evenly.
    tower = EfficientNetLite(EfficientNetLiteConfig())
    conv = tower.stem[0]
    x = pictures(1, 8)
    expected = nn.functional.conv2d(nn.functional.pad(x, (0, 1, 0, 1)), conv.weight, stride=2)
    torch.testing.assert_close(conv(x), expected)
    assert conv(pictures(1, 9)).shape[-1] == 5


def test_a_model_in_training_mode_keeps_the_tower_of_the_embedded_model_fixed() -> None:
    model = tiny_model(vision_config=EfficientNetLiteConfig(image_size=64), vision_feature_layer=None).train()
    assert model.training
    assert not any(module.training for module in model.model.vision_tower.encoder.modules())
