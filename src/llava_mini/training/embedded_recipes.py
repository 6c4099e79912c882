"""Recipes on drawn scenes: the embedded model, the forms that are compared on its parts, and a few steps of it.

Source: LLaVA-Mini, section 4.3, for stage 1 and stage 2; the warm-ups are ours.
"""

from collections.abc import Mapping
from dataclasses import replace

from llava_mini.data.answers import QuestionKind
from llava_mini.data.layouts import SceneKind
from llava_mini.training.stages import Embedded, Recipe, Scenes, Stage

_CAPTIONS: tuple[QuestionKind, ...] = ("caption", "name")
_ANSWERS = Scenes(
    pictures=4,
    videos=2,
    questions_per_picture=4,
    relations=5,
    turns=3,
    texts=1,
    pairs=3,
    imagined=0.35,
    photographs=0.8,
)
_NAMES_AND_COUNTS = replace(
    _ANSWERS,
    pictures=8,
    videos=3,
    questions_per_picture=2,
    relations=0,
    sides=1,
    mentions=10,
    pairs=2,
    claims=2,
    imagined=0.3,
    scene_kinds={"single": 32, "shapes": 22, "pair": 21, "count": 10, "mixed": 15},
    first=("name", "count"),
)
_TO_COMPARE: dict[SceneKind, float] = {"single": 18, "shapes": 27, "pair": 30, "count": 5, "mixed": 20}
"""Where claims are learned, seven scenes of ten show two things that can be compared."""


def embedded() -> Recipe:
    """Make the embedded model: warm-ups around the paper's two stages, the second in eight parts."""
    return Recipe(
        name="embedded",
        summary="the embedded model: warm-ups around the paper's two stages, drawn scenes and videos",
        start=Embedded(),
        precision="bfloat16",
        stages=(
            Stage(
                "alignment",
                "alignment",
                {"projector": 1e-3, "compression": 1e-3, "helper": 1e-3},
                Scenes(32, imagined=0.25),
                steps=800,
            ),
            Stage(
                "stage1",
                "all_tokens",
                {"projector": 5e-5},
                Scenes(4, questions_per_picture=1, kinds=_CAPTIONS, imagined=0.25),
                steps=40,
            ),
            Stage(
                "grounding",
                "grounding",
                {"pre_fusion": 5e-4, "projector": 3e-5, "helper": 5e-4},
                Scenes(12, imagined=0.1),
                steps=2000,
            ),
            Stage(
                "relations",
                "grounding",
                {"pre_fusion": 3e-4, "projector": 1e-5, "helper": 3e-4},
                Scenes(12, pairs=3, imagined=0.1),
                steps=500,
            ),
            Stage(
                "stage2",
                "answers",
                {"pre_fusion": 1e-4, "compression": 1e-4, "projector": 1e-5, "lora": 7e-4, "helper": 1e-4},
                Scenes(4, pairs=2, imagined=0.2, turns=3, texts=1),
                steps=1200,
                lora_rank=32,
                grounding_weight=0.3,
            ),
            Stage(
                "answers",
                "answers",
                {"pre_fusion": 1e-4, "compression": 1e-4, "projector": 1e-5, "lora": 5e-4, "helper": 1e-4},
                Scenes(4, 2, questions_per_picture=4, relations=4, turns=3, texts=1, pairs=3, imagined=0.25),
                steps=1150,
                lora_rank=32,
                grounding_weight=0.3,
            ),
            Stage(
                "photographs",
                "answers",
                {"pre_fusion": 1e-4, "lora": 5e-4, "helper": 3e-4},
                _ANSWERS,
                steps=700,
                lora_rank=32,
                grounding_weight=0.3,
            ),
            Stage(
                "alignment-again",
                "alignment",
                {"projector": 5e-4, "compression": 5e-4, "helper": 1e-3},
                Scenes(32, imagined=0.3, photographs=0.5),
                steps=800,
            ),
            Stage(
                "grounding-again",
                "grounding",
                {"pre_fusion": 3e-4, "projector": 3e-5, "helper": 3e-4},
                Scenes(12, pairs=3, imagined=0.15, photographs=0.5),
                steps=1000,
            ),
            Stage(
                "answers-again",
                "answers",
                {"pre_fusion": 1e-4, "compression": 1e-4, "projector": 1e-5, "lora": 5e-4, "helper": 3e-4},
                replace(_ANSWERS, imagined=0.3),
                steps=450,
                lora_rank=32,
                grounding_weight=0.3,
            ),
            Stage(
                "claims",
                "grounding",
                {"pre_fusion": 3e-4, "projector": 1e-5, "helper": 1e-3},
                Scenes(12, mentions=10, pairs=4, claims=8, imagined=0.15, photographs=0.5, scene_kinds=_TO_COMPARE),
                steps=1300,
            ),
            Stage(
                "answers-to-claims",
                "answers",
                {"pre_fusion": 1e-4, "lora": 5e-4, "helper": 3e-4},
                replace(
                    _ANSWERS,
                    questions_per_picture=3,
                    relations=2,
                    sides=3,
                    claims=6,
                    imagined=0.3,
                    scene_kinds=_TO_COMPARE,
                ),
                steps=1000,
                lora_rank=32,
                grounding_weight=0.3,
            ),
            Stage(
                "names-and-counts",
                "answers",
                {"pre_fusion": 1e-4, "lora": 5e-4, "helper": 3e-4},
                _NAMES_AND_COUNTS,
                steps=400,
                lora_rank=32,
                grounding_weight=0.3,
            ),
            Stage(
                "counts",
                "grounding",
                {"pre_fusion": 3e-4, "helper": 1e-3},
                Scenes(
                    16,
                    mentions=10,
                    pairs=1,
                    claims=1,
                    imagined=0.1,
                    photographs=0.5,
                    scene_kinds={"single": 5, "shapes": 25, "pair": 15, "count": 45, "mixed": 10},
                ),
                steps=500,
            ),
            Stage(
                "recall",
                "answers",
                {"memory": 1e-2, "pre_fusion": 1e-4, "lora": 5e-4, "helper": 3e-4},
                replace(
                    _NAMES_AND_COUNTS,
                    pictures=11,
                    videos=1,
                    pairs=1,
                    claims=1,
                    scene_kinds={"single": 38, "shapes": 17, "pair": 15, "count": 20, "mixed": 10},
                ),
                steps=260,
                lora_rank=32,
                grounding_weight=0.3,
            ),
            Stage(
                "context",
                "alignment",
                {"context": 1e-3, "helper": 1e-2},
                Scenes(
                    32,
                    scene_kinds={"single": 15, "shapes": 25, "pair": 15, "count": 30, "mixed": 15},
                    on_panoramas=0.6,
                ),
                steps=600,
            ),
            Stage(
                "panoramas",
                "grounding",
                {"context": 3e-4, "pre_fusion": 3e-4, "helper": 1e-3},
                Scenes(
                    16,
                    mentions=10,
                    pairs=1,
                    claims=1,
                    imagined=0.05,
                    photographs=0.5,
                    scene_kinds={"single": 10, "shapes": 30, "pair": 12, "count": 35, "mixed": 13},
                    on_panoramas=0.75,
                ),
                steps=1600,
            ),
            Stage(
                "answers-on-panoramas",
                "answers",
                {"memory": 1e-2, "context": 1e-4, "pre_fusion": 1e-4, "lora": 5e-4, "helper": 3e-4},
                replace(
                    _NAMES_AND_COUNTS,
                    videos=2,
                    questions_per_picture=3,
                    pairs=1,
                    claims=1,
                    imagined=0.2,
                    scene_kinds={"single": 30, "shapes": 24, "pair": 14, "count": 20, "mixed": 12},
                    first=("name", "count", "background", "colour"),
                    on_panoramas=0.6,
                ),
                steps=560,
                lora_rank=32,
                grounding_weight=0.3,
            ),
        ),
    )


_FORMS: dict[str, tuple[str, dict[str, object]]] = {
    "compare-mini": ("one token by queries, with pre-fusion: LLaVA-Mini", {}),
    "compare-plain": ("one token by queries, with pre-fusion, without grounding", {}),
    "compare-average": ("one token by average pooling, with pre-fusion", {"compression": "average"}),
    "compare-one-token": ("one token by queries, without pre-fusion", {"fusion_layers": 0}),
    "compare-more-tokens": ("16 tokens without pre-fusion, more work", {"fusion_layers": 0, "compression_size": 4}),
    "compare-all-tokens": ("all 81 tokens, no pre-fusion: LLaVA-v1.5", {"fusion_layers": 0, "compression": "none"}),
}
COMPARED = {
    name: (summary, {"memory_words": 0, "fusion_context": 0, **changes}) for name, (summary, changes) in _FORMS.items()
}
"""The forms: what `--list` says of each, and how its configuration differs from the embedded model's."""
_GROUNDED = ("compare-mini", "compare-average")


def compared(name: str) -> Recipe:
    """Train one of the forms that the paper's Tables 1, 6 and 8 compare, on the embedded model's parts, in short.

    They learn from scenes of shapes alone, where there is little to know, without imagined classes; each stage sees the
    same scenes and asks the same questions in the same order. A form without pre-fusion has nothing that grounding
    could teach. "compare-plain" fuses and has no grounding either: beside "compare-mini" it tells what grounding
    gives, beside "compare-one-token" what fusing gives.
    """
    summary, changes = COMPARED[name]
    whole = embedded()
    stages = {stage.name: stage for stage in whole.stages}
    # Rank 16, as the results that are kept were trained with.
    stages["stage2"] = replace(stages["stage2"], lora_rank=16, grounding_weight=0.0, data=Scenes(3, turns=3))
    steps = {"alignment": 200, "stage1": 20, "grounding": 250, "stage2": 300}
    if name not in _GROUNDED:
        del steps["grounding"]
    short = tuple(_of_form(replace(stages[one], steps=count), changes) for one, count in steps.items())
    return Recipe(name, f"{summary}; on shapes alone", Embedded(changes=changes), short, precision=whole.precision)


def _of_form(stage: Stage, changes: Mapping[str, object]) -> Stage:
    """Return a stage on shapes alone, without the rates of parts that its form does not have or it does not teach."""
    gone = {"pre_fusion"} if changes.get("fusion_layers") == 0 else set()
    gone |= {"helper"} if stage.objective == "answers" and not stage.grounding_weight else set()
    gone |= {"compression"} if changes.get("compression") in ("none", "average") else set()
    rates = {part: rate for part, rate in stage.learning_rates.items() if part not in gone}
    assert isinstance(stage.data, Scenes)
    return replace(stage, learning_rates=rates, data=replace(stage.data, only_shapes=True, imagined=0.0))


def smoke() -> Recipe:
    """Run four stages of the embedded model for a few steps: does the machinery work here? About a minute."""
    return Recipe(
        name="smoke",
        summary="four stages of the embedded model for a few steps, a minute, on a few scenes: does it work here?",
        start=Embedded(),
        stages=(
            Stage(
                "alignment",
                "alignment",
                {"projector": 1e-3, "compression": 1e-3, "helper": 1e-3},
                Scenes(4, imagined=0.25),
                4,
            ),
            Stage(
                "stage1",
                "all_tokens",
                {"projector": 1e-4},
                Scenes(2, questions_per_picture=1, kinds=_CAPTIONS, held_out=4),
                2,
            ),
            Stage("grounding", "grounding", {"pre_fusion": 3e-4, "helper": 3e-4}, Scenes(2, held_out=4), 4),
            Stage("stage2", "answers", {"pre_fusion": 1e-4, "lora": 5e-4}, Scenes(2, held_out=4), 2, lora_rank=4),
        ),
    )
