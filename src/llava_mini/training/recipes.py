"""Recipes: each a function that returns what is trained, in which order, on what."""

from collections.abc import Callable

from llava_mini.errors import ConfigError
from llava_mini.training.stages import Recipe, Stage

_CAPTIONS = ("caption", "name")
_ATTRIBUTES = ("name", "shape", "colour", "background", "count", "left_right", "above_below", "bigger", "where")


def embedded() -> Recipe:
    """Make the embedded model: two warm-ups around the paper's two stages."""
    return Recipe(
        name="embedded",
        scenes=12000,
        videos=2400,
        stages=(
            Stage(
                "alignment",
                "alignment",
                {"projector": 1e-3, "compression": 1e-3},
                steps=800,
                pictures_per_step=32,
                imagined=0.25,
            ),
            Stage(
                "stage1",
                "all_tokens",
                {"projector": 5e-5},
                steps=40,
                pictures_per_step=4,
                questions_per_picture=1,
                kinds=_CAPTIONS,
                imagined=0.25,
            ),
            Stage(
                "shallow",
                "shallow",
                {"pre_fusion": 5e-4, "compression": 1e-4, "projector": 3e-5, "helper": 5e-4},
                steps=2600,
                pictures_per_step=6,
                helper_weight=1.0,
                imagined=0.1,
            ),
            Stage(
                "stage2",
                "answers",
                {"pre_fusion": 1e-4, "compression": 1e-4, "projector": 1e-5, "lora": 4e-4, "helper": 1e-4},
                steps=800,
                pictures_per_step=4,
                helper_weight=0.3,
                imagined=0.25,
                lora_rank=16,
            ),
            Stage(
                "attributes",
                "answers",
                {"pre_fusion": 1e-4, "compression": 1e-4, "projector": 1e-5, "lora": 5e-4, "helper": 1e-4},
                steps=400,
                pictures_per_step=4,
                kinds=_ATTRIBUTES,
                helper_weight=0.2,
                imagined=0.15,
                lora_rank=16,
            ),
            Stage(
                "videos",
                "answers",
                {"pre_fusion": 5e-5, "compression": 5e-5, "projector": 5e-6, "lora": 4e-4, "helper": 1e-4},
                steps=500,
                pictures_per_step=2,
                videos_per_step=2,
                kinds=_ATTRIBUTES,
                helper_weight=0.2,
                imagined=0.3,
                lora_rank=16,
            ),
        ),
    )


def smoke() -> Recipe:
    """Run every stage for a few steps: does the machinery work here? About a minute."""
    return Recipe(
        name="smoke",
        scenes=40,
        stages=(
            Stage("alignment", "alignment", {"projector": 1e-3, "compression": 1e-3}, 4, 4, imagined=0.25),
            Stage("stage1", "all_tokens", {"projector": 1e-4}, 2, 2, questions_per_picture=1, kinds=_CAPTIONS),
            Stage("shallow", "shallow", {"pre_fusion": 3e-4, "helper": 3e-4}, 4, 2, helper_weight=1.0),
            Stage("stage2", "answers", {"pre_fusion": 1e-4, "lora": 5e-4}, 2, 2, lora_rank=4),
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"embedded": embedded, "smoke": smoke}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
        ConfigError: when there is none.
    """
    if name not in RECIPES:
        raise ConfigError(f"no recipe is called {name!r}; recipes are {', '.join(RECIPES)}")
    return RECIPES[name]()
