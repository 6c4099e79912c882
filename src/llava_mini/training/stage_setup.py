"""What a stage needs before it can run: its seed, its share of a step, its loss, its batches, what they come from."""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from llava_mini.data.collator import ExampleCollator, Skipped
from llava_mini.data.layouts import SceneKind
from llava_mini.data.mixture import Mixture, StreamMixture, mix
from llava_mini.data.scenes import SHAPES, Scene
from llava_mini.errors import ConfigError
from llava_mini.inputs.chat import read_template
from llava_mini.model.projector import SemanticProjector
from llava_mini.training.alignment import PatchAlignment
from llava_mini.training.controls import HeldOut, example_controls, scene_controls
from llava_mini.training.grounding import MentionReader, WordGrounding
from llava_mini.training.objectives import Answers
from llava_mini.training.scene_batches import SceneCollator
from llava_mini.training.stages import Files, Recipe, Scenes, Stage
from llava_mini.training.workshop import Drawn, Workshop

_GROUND: dict[bool | None, str] = {True: "on a panorama", False: "on a drawn ground"}


def seed_of(recipe: Recipe, stage: Stage) -> int:
    """Return the seed of a stage's order and chance: each has its own, of the recipe's seed and its name."""
    return int(np.random.SeedSequence([recipe.seed, *stage.name.encode()]).generate_state(1)[0])


def divide_step(stage: Stage, processes: int) -> tuple[int, int]:
    """Return how many items a process takes at a time, and how many micro-batches make a step.

    Raises:
        ConfigError: when a step cannot be divided so.
    """
    if isinstance(stage.data, Scenes):
        whole, size = stage.data.pictures, max(1, stage.data.pictures // processes)
    else:
        whole, size = stage.data.batch_size, min(stage.data.per_device, max(1, stage.data.batch_size // processes))
    if whole % (size * processes):
        raise ConfigError(
            f"stage {stage.name!r}: {whole} a step cannot be divided into {size} on each of {processes} devices"
        )
    return size, whole // (size * processes)


def take_share(stage: Stage, processes: int) -> Stage:
    """Return the stage as one of several processes takes it: its part of the videos and texts of a step.

    Raises:
        ConfigError: when there is no equal part.
    """
    if not isinstance(stage.data, Scenes):
        return stage
    for what, whole in (("videos", stage.data.videos), ("texts", stage.data.texts)):
        if whole % processes:
            raise ConfigError(f"stage {stage.name!r}: {whole} {what} a step cannot be shared by {processes} devices")
    data = replace(stage.data, videos=stage.data.videos // processes, texts=stage.data.texts // processes)
    return replace(stage, data=data)


def count_steps(stage: Stage, mixture: Mixture | StreamMixture) -> int:
    """Return the steps of a stage: its own number, or what the epochs of its files give.

    Raises:
        ConfigError: when it has none, and its data has no end.
    """
    if stage.steps:
        return stage.steps
    if not isinstance(stage.data, Files) or isinstance(mixture, StreamMixture):
        raise ConfigError(f"stage {stage.name!r} has no steps, and its data has no end; set stages.{stage.name}.steps")
    return max(1, round(stage.data.epochs * mixture.epoch_length / stage.data.batch_size))


def build_objective(stage: Stage, workshop: Workshop) -> nn.Module:
    """Return the model with its loss.

    Raises:
        ConfigError: when the stage asks for what its objective does not have.
    """
    model = workshop.model
    if stage.objective == "alignment":
        if stage.checkpoint_activations:
            raise ConfigError(f"stage {stage.name!r} runs no transformer; set its checkpoint_activations to false")
        return PatchAlignment(model, _drawn(stage, workshop).table)
    if stage.objective == "grounding":
        return WordGrounding(model, _drawn(stage, workshop).table, silence_weight=stage.silence_weight)
    if stage.grounding_weight and not (stage.objective == "answers" and model.config.fusion_layers):
        raise ConfigError(f"stage {stage.name!r} fuses no words; set its grounding_weight to 0")
    reader = None
    if stage.grounding_weight:
        reader = MentionReader(_drawn(stage, workshop).table, silence_weight=stage.silence_weight)
    return Answers(model, through=stage.objective, reader=reader, grounding_weight=stage.grounding_weight)


def build_collator(stage: Stage, workshop: Workshop, seed: int) -> SceneCollator | ExampleCollator:
    """Return what turns items of the stage's data into its batches.

    Raises:
        ConfigError: when the stage asks for what the model or the data does not have.
    """
    config = workshop.model.config
    tokens = config.all_tokens_per_frame if stage.objective == "all_tokens" else config.tokens_per_frame
    if isinstance(stage.data, Files):
        template = read_template(stage.data.template) if stage.data.template else ""
        return ExampleCollator(workshop.processor, tokens, stage.data.max_tokens, stage.data.packing, template)
    if stage.data.imagined and config.tiles > 1:
        raise ConfigError(f"stage {stage.name!r} imagines classes, but pictures are in tiles; set imagined to 0")
    if stage.data.only_shapes and (stage.data.imagined or stage.data.videos):
        raise ConfigError(
            f"stage {stage.name!r} shows only_shapes, but imagined is {stage.data.imagined} and videos "
            f"{stage.data.videos}, which show other things; set them to 0"
        )
    projector = workshop.model.model.multi_modal_projector
    classifier = copy.deepcopy(projector.classifier).cpu() if isinstance(projector, SemanticProjector) else None
    drawn = _drawn(stage, workshop)
    for kind, found in (("scenes", drawn.scenes), ("videos", drawn.videos)):
        if found is not None and found.parts != config.parts_per_frame:
            raise ConfigError(
                f"the prepared {kind} have {found.parts} parts a frame, the model sees {config.parts_per_frame}; make "
                f"others with 'llava-mini data {kind} --tiles {config.tiles} --out DIR'"
            )
    if drawn.videos is not None and drawn.videos[0].scene is not None:
        raise ConfigError("the folder of videos holds scenes; give the one that 'llava-mini data videos' made")
    if stage.data.texts > len(drawn.texts):
        raise ConfigError(
            f"stage {stage.name!r} takes {stage.data.texts} texts a step, the file has {len(drawn.texts)}"
        )
    return SceneCollator(
        stage,
        workshop.processor,
        drawn.table,
        classifier,
        drawn.class_names,
        SHAPES if stage.data.only_shapes else drawn.names,
        tokens,
        seed,
        drawn.videos,
        drawn.texts,
    )


def open_data(
    stage: Stage, workshop: Workshop, collator: SceneCollator | ExampleCollator, seed: int, skipped: Skipped
) -> tuple[Mixture | StreamMixture, dict[str, HeldOut]]:
    """Return what the stage learns from, and what is held out.

    Raises:
        ConfigError: when nothing would be left to learn from, or no scene is as `scene_kinds` or `on_panoramas` asks.
    """
    if isinstance(collator, ExampleCollator):
        assert isinstance(stage.data, Files)
        held_out = stage.data.evaluation
        unpacked = replace(collator, packing=False)
        controls = example_controls(held_out, unpacked, stage.data.per_device, skipped) if held_out else {}
        return mix(stage.data.files, seed), controls
    assert isinstance(stage.data, Scenes)
    scenes, data = _drawn(stage, workshop).scenes, stage.data
    grounds = _grounds(data)
    shown = {
        index: scene
        for index, scene in scenes.known()
        if (scene.only_shapes or not data.only_shapes)
        and (data.scene_kinds.get(scene.kind) or not data.scene_kinds)
        and (grounds.get(bool(scene.behind)) or data.on_panoramas is None)
    }
    count = len(shown) - data.held_out
    if count < 1:
        scenes_of = "scenes of only shapes" if data.only_shapes else "scenes"
        raise ConfigError(
            f"stage {stage.name!r}: held_out is {data.held_out}, but there are only {len(shown)} {scenes_of}; "
            "draw more with 'llava-mini data scenes'"
        )
    held = [scenes[index] for index in list(shown)[count:]]
    shares = _shares(stage, {index: shown[index] for index in list(shown)[:count]})
    files = [(torch.utils.data.Subset(scenes, places), count * share / len(places)) for places, share in shares]
    return Mixture(files, seed), scene_controls(held, collator) if held else {}  # type: ignore[arg-type]


def check_scenes(recipe: Recipe, workshop: Workshop) -> None:
    """Look whether there are scenes of all that the stages ask for, before any of them is trained.

    Raises:
        ConfigError: for a stage that asks for others.
    """
    asking = [stage for stage in recipe.stages if isinstance(stage.data, Scenes) and _tells_apart(stage.data)]
    if workshop.drawn is None or not asking:
        return
    shown = dict(workshop.drawn.scenes.known())
    for stage in asking:
        _shares(stage, shown)


def _tells_apart(data: Scenes) -> bool:
    return bool(data.scene_kinds) or data.on_panoramas is not None


def _grounds(data: Scenes) -> dict[bool | None, float]:
    """Return the share of scenes that stand on a panorama (true) and of those that do not; all as they come: none."""
    share = data.on_panoramas
    return {None: 1.0} if share is None else {True: share, False: 1 - share}


def _shares(stage: Stage, shown: Mapping[int, Scene]) -> list[tuple[list[int], float]]:
    """Divide scenes by what `scene_kinds` and `on_panoramas` tell apart; return the places of each part, its share."""
    assert isinstance(stage.data, Scenes)
    kinds, grounds = stage.data.scene_kinds, _grounds(stage.data)
    parts: dict[tuple[SceneKind | None, bool | None], list[int]] = {}
    for index, scene in shown.items():
        part = scene.kind if kinds else None, bool(scene.behind) if None not in grounds else None
        parts.setdefault(part, []).append(index)
    whole, shares = sum(kinds.values()) or 1.0, []
    for kind, ground in itertools.product(kinds or (None,), grounds):
        share = (kinds[kind] if kind else 1.0) / whole * grounds[ground]
        if share and (kind, ground) not in parts:
            words = {"scene_kinds": repr(kind) if kind else "", "on_panoramas": _GROUND.get(ground, "")}
            which = " ".join(word for word in words.values() if word)
            set_to = " and ".join(key for key, word in words.items() if word)
            raise ConfigError(
                f"stage {stage.name!r}: none of its {len(shown)} scenes is {which}, which is asked for; "
                f"set {set_to} to what there is, or draw more with 'llava-mini data scenes'"
            )
        if share:
            shares.append((parts[kind, ground], share))
    return shares


def _drawn(stage: Stage, workshop: Workshop) -> Drawn:
    if workshop.drawn is None:
        raise ConfigError(f"stage {stage.name!r} with objective {stage.objective!r} learns from scenes, not from files")
    return workshop.drawn
