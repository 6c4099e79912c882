"""Recipes: each a function that returns what is trained, in which order, on what.

Source: LLaVA-Mini, section 4.3, section 5.1 and Table 9 for the paper's; what the paper is silent about is ours.
"""

import difflib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from llava_mini.data.readers import DataFile
from llava_mini.errors import ConfigError
from llava_mini.training.embedded_recipes import COMPARED, compared, embedded, smoke
from llava_mini.training.stages import Files, Parts, Pretrained, Recipe, Stage, Template

_ALL_PARTS = {"language_model": 1e-4, "head": 1e-4, "compression": 1e-4, "pre_fusion": 1e-4, "projector": 1e-5}
_LANGUAGE_MODELS = {
    "vicuna-7b": "lmsys/vicuna-7b-v1.5",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
}


def vicuna_7b() -> Recipe:
    """Train the paper's model of Table 1: two stages, 558K captions, then the 665K mix of LLaVA-v1.5."""
    return _paper("vicuna-7b", "vicuna-v1.1", "the paper's two stages on Vicuna-7B, pictures")


def llama_3_1_8b() -> Recipe:
    """Train the paper's two stages on Llama-3.1-8B; its own 3M mixture was never published."""
    return _paper("llama-3.1-8b", "llama-3.1", "the paper's two stages on Llama-3.1-8B, pictures")


def vicuna_7b_hd() -> Recipe:
    """Train the HD model: 2×2 tiles beside the whole, 8×8 vision tokens."""
    recipe = _paper("vicuna-7b", "vicuna-v1.1", "the HD model: 672 px in 2x2 tiles, 64 vision tokens")
    assert isinstance(recipe.start, Parts)
    # Stage 1 shows the language model all 5 × 576 tokens of a picture in tiles.
    first = replace(recipe.stages[0], data=replace(_files(recipe.stages[0]), max_tokens=4096, per_device=1))
    second = replace(recipe.stages[1], data=replace(_files(recipe.stages[1]), per_device=4))
    return replace(
        recipe,
        name="vicuna-7b-hd",
        start=replace(recipe.start, changes={"tiles": 2, "compression_size": 8}),
        stages=(first, second),
    )


def vicuna_7b_video() -> Recipe:
    """Train on pictures and videos together: 100K of Video-ChatGPT join the 665K of stage 2."""
    recipe = _paper("vicuna-7b", "vicuna-v1.1", "pictures and videos: Video-ChatGPT joins stage 2")
    first, second = recipe.stages
    videos = DataFile("data/VideoInstruct100K.json", media="data/videos")
    data = _files(second)
    return replace(
        recipe,
        name="vicuna-7b-video",
        stages=(first, replace(second, data=replace(data, files=(*data.files, videos), per_device=2))),
    )


def lora() -> Recipe:
    """Fine-tune a trained model on a person's own data: LoRA on the language model and on pre-fusion."""
    return Recipe(
        name="lora",
        summary="fine-tune a trained model on your own data: LoRA, one GPU or a CPU",
        start=Pretrained(),
        save_every=50,
        stages=(
            Stage(
                "finetune",
                "answers",
                {"lora": 2e-4},
                Files(batch_size=8, per_device=2, epochs=3, packing=True, workers=0),
                lora_rank=16,
                lora_on=("language_model", "pre_fusion"),
            ),
        ),
    )


def qlora() -> Recipe:
    """Fine-tune as `lora` does, with the frozen language model in 4 bits."""
    recipe = lora()
    return replace(
        recipe,
        name="qlora",
        summary="as lora, the frozen language model in 4 bits; needs bitsandbytes",
        start=Pretrained(model="", four_bit=True, geometry="llama-3.1-8b"),
        precision="bfloat16",
        stages=(replace(recipe.stages[0], checkpoint_activations=True),),
    )


def _paper(language_model: Literal["vicuna-7b", "llama-3.1-8b"], template: Template, summary: str) -> Recipe:
    """Return the two stages of section 4.3 with the numbers of Table 9."""
    return Recipe(
        name=language_model,
        summary=summary,
        start=Parts(language_model, _LANGUAGE_MODELS[language_model], template=template),
        precision="bfloat16",
        parallel="fsdp",
        stages=(
            Stage(
                "stage1",
                "all_tokens",
                {"projector": 1e-3},
                Files(
                    batch_size=256,
                    per_device=8,
                    files=(DataFile("data/blip_laion_cc_sbu_558k.json", media="data/images"),),
                    template="plain",
                ),
                checkpoint_activations=True,
            ),
            Stage(
                "stage2",
                "answers",
                dict(_ALL_PARTS),
                Files(
                    batch_size=256,
                    per_device=8,
                    files=(DataFile("data/llava_v1_5_mix665k.json", media="data"),),
                    epochs=2,
                    packing=True,
                ),
                checkpoint_activations=True,
            ),
        ),
    )


def _files(stage: Stage) -> Files:
    assert isinstance(stage.data, Files)
    return stage.data


RECIPES: dict[str, Callable[[], Recipe]] = {
    "vicuna-7b": vicuna_7b,
    "llama-3.1-8b": llama_3_1_8b,
    "vicuna-7b-hd": vicuna_7b_hd,
    "vicuna-7b-video": vicuna_7b_video,
    "lora": lora,
    "qlora": qlora,
    "embedded": embedded,
    "smoke": smoke,
    **{name: partial(compared, name) for name in COMPARED},
}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
        ConfigError: when there is none.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"no recipe is called {name!r}{meant} (recipes are {', '.join(RECIPES)})")
    return RECIPES[name]()
