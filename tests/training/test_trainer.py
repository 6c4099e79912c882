"""Stages move what they name, logs and adapters are written, and a stopped run goes on as if it had not stopped."""

import copy
import json
import math
import random
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import EMBEDDED, tiny_model, tiny_processor
from torch.nn import functional as F
from transformers import set_seed

from llava_mini.checkpoints.embedded import load_adapter
from llava_mini.data.collator import Skipped
from llava_mini.data.mentions import Mention
from llava_mini.data.mixture import Mixture
from llava_mini.data.prepared import PreparedScene, PreparedScenes
from llava_mini.data.questions import Question, QuestionKind
from llava_mini.data.readers import DataFile
from llava_mini.data.scenes import SHAPES, Scene, SceneObject
from llava_mini.errors import ConfigError, DataError, ModelError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.word_memory import STRENGTH
from llava_mini.training.alignment import WordTable, embed_words
from llava_mini.training.grounding import FACT_WORDS, MentionReader, WordGrounding
from llava_mini.training.lora import take_over_lora
from llava_mini.training.objectives import Answers
from llava_mini.training.recipes import RECIPES, find_recipe
from llava_mini.training.run import run
from llava_mini.training.scene_batches import SceneCollator
from llava_mini.training.stage_setup import build_collator, build_objective, open_data, take_share
from llava_mini.training.stages import PARTS, Embedded, Files, Pretrained, Recipe, Scenes, Stage, learn_only, part_of
from llava_mini.training.workshop import (
    Drawn,
    Workshop,
    begin_memory,
    begin_projector,
    begin_silence,
    check_memory,
    open_workshop,
)

_WORDS = tuple(dict.fromkeys(["cat", "star", *chain(*FACT_WORDS.values())]))
_ALIGN = Stage("align", "alignment", {"projector": 1e-2, "compression": 1e-2}, Scenes(2, imagined=0.5), 3)
_STAGE1 = Stage("one", "all_tokens", {"projector": 1e-2}, Scenes(2, questions_per_picture=1), 2)
_GROUND = Stage("ground", "grounding", {"pre_fusion": 1e-2, "helper": 1e-2}, Scenes(2, imagined=0.5), 2)
_STAGE2 = Stage(
    "two",
    "answers",
    {"pre_fusion": 1e-2, "compression": 1e-2, "projector": 1e-2, "lora": 1e-2, "helper": 1e-2},
    Scenes(2, imagined=0.3),
    4,
    grounding_weight=0.3,
    lora_rank=2,
)


def recipe_of(*stages: Stage, lookup: bool = True, save_every: int = 200) -> Recipe:
    return Recipe("test", "a test", Embedded(lookup=lookup), stages, save_every=save_every)


def made_scenes(folder: Path, parts: int = 1) -> PreparedScenes:
    """Eight scenes of a tower with 16 patches of 48 channels."""
    folder.mkdir(parents=True)
    features = np.random.default_rng(0).normal(size=(8, parts, 16, 48)).astype(np.float16)
    np.save(folder / "shard-0000.npy", features)
    cat = {"name": "cat", "kind": "cutout", "colour": "red", "box": [0, 0, 260, 130], "area": 30000}
    scene = {"objects": [cat], "background": "blue", "cell_objects": [[0] * 4] * 2 + [[-1] * 4] * 2, "kind": "single"}
    (folder / "shard-0000.json").write_text(json.dumps([{"scene": scene, "frames": 1}] * 8))
    return PreparedScenes(folder)


def test_a_run_goes_on_with_the_data_it_began_with_only(tmp_path: Path) -> None:
    recipe = recipe_of(_ALIGN, _GROUND)
    run(recipe, workshop(tmp_path), tmp_path / "run", until="align")
    record = tmp_path / "run/data.json"
    assert json.loads(record.read_text())["scenes"]["count"] == 8
    path = tmp_path / "scenes/shard-0000.json"
    rows = path.read_text()
    for changed, words in (
        (
            json.dumps(json.loads(rows)[:6]),
            r"began with other scenes, 8 of digest \w{8}; now there are 6 of digest \w{8}; give",
        ),
        (rows.replace("blue", "green"), r"8 of digest \w{8}; now there are 8 of .*or choose another folder with --out"),
    ):
        path.write_text(changed)
        with pytest.raises(ConfigError, match=words):
            run(recipe, workshop(tmp_path), tmp_path / "run")
    record.unlink()  # as of a run of before this was written down
    run(recipe, workshop(tmp_path), tmp_path / "run")
    assert record.is_file()


def test_videos_and_texts_are_part_of_what_a_run_began_with(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    assert shop.drawn is not None
    texts = [("Hello!", "Hello.")]
    drawn = replace(shop.drawn, videos=made_videos(tmp_path / "videos"), texts=texts)
    assert {kind: found.count for kind, found in drawn.contents.items()} == {"scenes": 8, "videos": 4, "texts": 1}
    other = replace(drawn, texts=[("Hello!", "Hi.")])
    assert {kind for kind in drawn.contents if drawn.contents[kind] != other.contents[kind]} == {"texts"}


def made_videos(folder: Path) -> PreparedScenes:
    """Four videos of two and three frames."""
    folder.mkdir(parents=True)
    np.save(folder / "shard-0000.npy", np.random.default_rng(1).normal(size=(10, 1, 16, 48)).astype(np.float16))
    question = {"kind": "order", "text": "What is first?", "answer": "A cat.", "accepted": ["cat"], "rivals": []}
    rows = [{"questions": [question], "frames": frames} for frames in (2, 3, 2, 3)]
    (folder / "shard-0000.json").write_text(json.dumps(rows))
    return PreparedScenes(folder)


def workshop(tmp_path: Path) -> Workshop:
    model = tiny_model(**EMBEDDED)
    table = WordTable(_WORDS, torch.nn.functional.normalize(torch.randn(len(_WORDS), 32), dim=-1))
    scenes = tmp_path / "scenes"
    data = PreparedScenes(scenes) if scenes.exists() else made_scenes(scenes)
    drawn = Drawn(data, table, ["cat", "star", "cat", "red", "blue"], ("cat", "dog", "apple"))
    return Workshop(model, tiny_processor(model.config), drawn=drawn)


def test_an_empty_word_memory_is_filled_with_names_and_kept_with_what_learned(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    memory = shop.model.model.word_memory
    assert memory is not None
    filled = memory.words.clone()
    begin_memory(shop)
    assert torch.equal(memory.words, filled)  # a trained one stays
    memory.words.zero_()
    run(recipe_of(replace(_STAGE2, learning_rates={"memory": 1e-2, "lora": 1e-3})), shop, tmp_path / "run")
    names = sorted({"cat", "dog", "apple", "red", "blue", *SHAPES})
    words = embed_words(names, shop.model.word_embeddings, shop.processor.tokenizer)
    assert torch.allclose(memory.words, torch.nn.functional.normalize(words, dim=-1))
    kept = load_file(tmp_path / "run" / "adapter.safetensors")
    assert torch.equal(kept["model.word_memory.words"], memory.words.half())
    assert abs(kept["model.word_memory.strength"].item() - STRENGTH) > 1e-3


def test_a_memory_that_a_stage_teaches_must_be_there_and_fit(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    taught = recipe_of(_ALIGN, replace(_STAGE2, learning_rates={"memory": 1e-2, "lora": 1e-3}))
    check_memory(taught, shop)
    assert shop.drawn is not None
    assert shop.model.model.word_memory is not None
    shop.model.model.word_memory.words.zero_()
    more = replace(shop, drawn=replace(shop.drawn, names=(*shop.drawn.names, "bus")))
    without = replace(shop, model=tiny_model(**EMBEDDED | {"memory_words": 0}))
    for other, words in (
        (more, "memory_words is 14, but there are 15 names; give that, or 0 and stages.two.learning_rates.memory=null"),
        (without, "memory_words is 0, but there are 14 names"),
        (replace(without, drawn=None), "memory_words is 0, but only scenes bring names"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_memory(taught, other)
        check_memory(recipe_of(_ALIGN), other)


@pytest.mark.parametrize("stage", [_ALIGN, _STAGE1, _GROUND, _STAGE2], ids=lambda stage: stage.name)
def test_a_stage_moves_the_parts_it_names_and_no_other(tmp_path: Path, stage: Stage) -> None:
    shop = workshop(tmp_path)
    begun = copy.deepcopy(shop)
    set_seed(0)
    begin_projector(begun)  # as every run begins
    before = begun.model.state_dict()
    run(recipe_of(stage, lookup=False), shop, tmp_path / "run")
    moved = {
        part_of(name)
        for name, value in shop.model.named_parameters()
        if (
            value.any()
            if "lora_B" in name
            else not torch.equal(value, before.get(name.replace(".base_layer", ""), value))
        )
    }
    assert moved == set(stage.learning_rates) - {"helper"}


def test_the_tower_the_embeddings_and_the_classifier_never_move(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    frozen = ("vision_tower", "embed_tokens", "lm_head", "classifier")
    before = {name: v.clone() for name, v in shop.model.state_dict().items() if any(part in name for part in frozen)}
    run(recipe_of(_ALIGN, _STAGE2), shop, tmp_path / "run")
    after = shop.model.state_dict()
    assert before
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_adapter_turns_a_fresh_model_into_the_trained_one(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    made = run(recipe_of(_STAGE2), shop, tmp_path / "run")
    fresh = workshop(tmp_path).model
    load_adapter(fresh, load_file(tmp_path / "run" / "adapter.safetensors"))
    ids = torch.tensor([[10, 11, 12, 13]])
    # The adapter is stored in fp16.
    torch.testing.assert_close(fresh(ids).logits, shop.model.eval()(ids).logits, atol=2e-2, rtol=1e-2)
    whole = LlavaMiniForConditionalGeneration.from_pretrained(made)
    torch.testing.assert_close(whole(ids).logits, fresh(ids).logits)


def test_every_loss_is_logged_and_the_recipe_lies_beside_the_weights(tmp_path: Path) -> None:
    run(recipe_of(_GROUND), workshop(tmp_path), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "ground" / "loss.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["stages"][0]["name"] == "ground"


def test_every_recipe_trains_parts_that_exist_and_the_papers_two_stages_in_order() -> None:
    for name in RECIPES:
        objectives = [stage.objective for stage in find_recipe(name).stages]
        tuned = isinstance(find_recipe(name).start, Pretrained)
        assert tuned or objectives.index("all_tokens") < objectives.index("answers")
        assert all(part in PARTS for stage in find_recipe(name).stages for part in stage.learning_rates)


def test_stage_1_trains_the_projector_alone() -> None:
    for name in RECIPES:
        first = [stage for stage in find_recipe(name).stages if stage.objective == "all_tokens"]
        assert all(set(stage.learning_rates) == {"projector"} for stage in first)


def test_the_questions_of_a_scene_are_drawn_anew_each_time_that_it_comes(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    assert shop.drawn is not None
    collator = build_collator(replace(_STAGE2, data=Scenes(1)), shop, 0)
    scene = shop.drawn.scenes[0]
    drawn = [collator.join([scene], number)["input_ids"].tolist() for number in (0, 1, 2, 0)]  # type: ignore[list-item]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
    assert drawn[0] == drawn[3]


def test_stages_of_one_run_see_other_scenes_and_imagine_other_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[list[int]]] = {}
    imagined: dict[str, list[list[int]]] = {}
    join = SceneCollator.join

    def watched(self: SceneCollator, scenes: Any, number: int = 0) -> dict[str, Any]:
        batch = join(self, scenes, number)
        seen.setdefault(self.stage.name, []).append([scene.index for scene in scenes])
        imagined.setdefault(self.stage.name, []).append(batch["main"].tolist())
        return batch

    monkeypatch.setattr(SceneCollator, "join", watched)
    one = replace(_ALIGN, name="one", data=Scenes(4, imagined=1.0), steps=4)
    run(recipe_of(one, replace(one, name="other")), workshop(tmp_path), tmp_path / "both")
    assert seen["one"] != seen["other"]
    assert imagined["one"] != imagined["other"]
    first = seen["one"], imagined["one"]
    seen.clear()
    imagined.clear()
    run(recipe_of(one), workshop(tmp_path), tmp_path / "alone")
    assert (seen["one"], imagined["one"]) == first


def with_two_things(shop: Workshop) -> PreparedScene:
    """Return a scene with a cat on the left and a bus on the right."""
    assert shop.drawn is not None
    left = SceneObject("cat", "cutout", "black", (0, 90, 90, 170), 4000)
    right = SceneObject("bus", "cutout", "red", (150, 60, 250, 200), 9000)
    two = Scene((left, right), None, np.full((9, 9), -1, dtype=np.int8), "mixed")
    return replace(shop.drawn.scenes[0], scene=two)


def test_of_an_imagined_thing_alignment_is_asked_its_name_alone(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    assert shop.drawn is not None
    scenes = [shop.drawn.scenes[0], shop.drawn.scenes[1]]
    drawn, planted = (
        build_collator(replace(_ALIGN, data=Scenes(2, imagined=imagined)), shop, 0).join(scenes)  # type: ignore[list-item]
        for imagined in (0.0, 1.0)
    )
    assert drawn["number"].tolist() == [1, 1]
    assert drawn["centres"].isfinite().all()
    assert planted["number"].tolist() == [-100, -100]
    assert planted["centres"].isnan().all()
    assert planted["boxes"].isnan().all()
    assert (planted["colours"] == -100).all()
    for main, names in zip(planted["main"], planted["names"], strict=True):
        assert set(names.tolist()) <= {-100, int(main)}
        assert (names == main).any()


def test_further_questions_ask_how_things_stand(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    scene = with_two_things(shop)
    relations = {"left_right", "above_below", "bigger", "where"}
    collator = build_collator(replace(_STAGE2, data=Scenes(1, questions_per_picture=1, relations=3)), shop, 0)
    assert isinstance(collator, SceneCollator)
    for seed in range(8):
        asked = collator._questions(scene, None, random.Random(seed))
        assert len(asked) == 4
        assert {question.kind for question in asked[1:]} <= relations
        assert len(collator._questions(scene, "dog", random.Random(seed))) == 2
    assert scene.scene is not None
    filling = replace(scene.scene.objects[0], box=(0, 0, 250, 250))
    alone = replace(scene, scene=replace(scene.scene, objects=(filling,)))
    assert len(collator._questions(alone, None, random.Random(0))) == 1


def test_kinds_that_come_first_are_asked_of_all_pictures_that_they_fit(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    assert shop.drawn is not None
    one = shop.drawn.scenes[0]  # shows a single cat
    two = with_two_things(shop)

    def asked(scene: PreparedScene, most: int, *first: QuestionKind) -> list[list[str]]:
        data = Scenes(1, questions_per_picture=most, first=first)
        collator = build_collator(replace(_STAGE2, data=data), shop, 0)
        assert isinstance(collator, SceneCollator)
        rounds = [collator._questions(scene, None, random.Random(seed)) for seed in range(20)]
        return [[question.kind for question in questions] for questions in rounds]

    assert all(kinds[0] == "name" and len(kinds) == 2 for kinds in asked(one, 2, "name"))
    assert not all("name" in kinds for kinds in asked(one, 2))
    assert all(kinds[:2] == ["presence", "name"] for kinds in asked(one, 3, "presence", "name"))
    assert all(kinds == ["presence"] for kinds in asked(one, 1, "presence", "name"))
    assert {kinds[0] for kinds in asked(two, 2, "name")} > {"presence"}  # no name fits: others are drawn as ever


def test_a_video_is_asked_all_its_questions_each_in_a_conversation_of_its_own(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    data = Scenes(1, questions_per_picture=2, turns=3)
    collator = build_collator(replace(_STAGE2, data=data), shop, 0)
    assert isinstance(collator, SceneCollator)
    texts = ("What appears first?", "What appears last?", "What comes after the cat?")
    order = tuple(Question("order", text, "A bus.", ("bus",)) for text in texts)
    film = replace(with_two_things(shop), scene=None, questions=order)
    assert list(collator._conversations(film, None, random.Random(0))) == [[question] for question in order]


def test_sides_are_asked_each_in_a_conversation_of_its_own(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    scene = with_two_things(shop)
    collator = build_collator(replace(_STAGE2, data=Scenes(1, questions_per_picture=1, sides=3, turns=2)), shop, 0)
    assert isinstance(collator, SceneCollator)
    for seed in range(8):
        first, *further = collator._conversations(scene, None, random.Random(seed))
        assert len(first) == 1
        assert [[question.kind for question in alone] for alone in further] == [["left_right"]] * 3
        assert len(list(collator._conversations(scene, "dog", random.Random(seed)))) <= 2
    film = replace(scene, scene=None, questions=tuple(first))
    assert list(collator._conversations(film, None, random.Random(0))) == [list(first)]


def test_no_imagined_name_is_oftener_absent_than_there_and_nothing_shown_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop(tmp_path)
    assert shop.drawn is not None
    names = ["dog"] * 118 + ["cat", "tabby"] + [f"thing {number}" for number in range(20)]
    shop = replace(shop, drawn=replace(shop.drawn, class_names=names))
    collator = build_collator(replace(_GROUND, data=Scenes(2, imagined=1.0)), shop, 0)
    assert isinstance(collator, SceneCollator)
    scene = shop.drawn.scenes[0]  # shows a cat
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    rows: list[list[Mention]] = []
    monkeypatch.setattr("llava_mini.training.scene_batches.grounding_batch", lambda found, *_: rows.extend(found))
    asked, denied = Counter[tuple[str, str]](), Counter[str]()
    for number in torch.multinomial(collator._class_chances, 3000, replacement=True, generator=generator).tolist():
        _, presence = collator._questions(scene, names[number], rng)
        asked["dog" if "dog" in presence.text else "other", presence.accepted[0]] += 1
        denied["cat" in presence.text and presence.accepted == ("no",)] += 1
        collator._grounding([scene], [names[number]], rng)
    assert denied[True] == 0
    for name in ("dog", "other"):
        assert 0.4 < asked[name, "yes"] / (asked[name, "yes"] + asked[name, "no"]) < 0.6
    there = Counter((mention.text, mention.present) for row in rows for mention in row)
    assert not there["cat", False]
    assert not there["tabby", False]
    assert 0.7 < there["dog", False] / there["dog", True] < 1.3


def test_videos_and_texts_of_a_step_are_shared_by_all_processes() -> None:
    stage = replace(_STAGE2, data=Scenes(4, videos=2, texts=4))
    part = take_share(stage, 2).data
    assert isinstance(part, Scenes)
    assert (part.videos, part.texts) == (1, 2)
    with pytest.raises(ConfigError, match="'two': 2 videos a step cannot be shared by 4 devices"):
        take_share(stage, 4)


def test_more_texts_than_there_are_and_activations_of_no_transformer_are_refused(tmp_path: Path) -> None:
    for stage, words in (
        (replace(_STAGE2, data=Scenes(2, texts=3)), "'two' takes 3 texts a step, the file has 0"),
        (replace(_ALIGN, checkpoint_activations=True), "'align' runs no transformer"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(recipe_of(stage), workshop(tmp_path), tmp_path / "run")
    run(recipe_of(replace(_GROUND, checkpoint_activations=True)), workshop(tmp_path), tmp_path / "ground")


def test_features_of_other_tiles_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    assert shop.drawn is not None
    tiled = replace(shop, drawn=replace(shop.drawn, scenes=made_scenes(tmp_path / "tiled", parts=5)))
    with pytest.raises(ConfigError, match="the prepared scenes have 5 parts a frame, the model sees 1; .*--tiles 1"):
        run(recipe_of(_GROUND), tiled, tmp_path / "run")
    still = replace(shop, drawn=replace(shop.drawn, videos=shop.drawn.scenes))
    with pytest.raises(ConfigError, match="the folder of videos holds scenes; .* 'llava-mini data videos' made"):
        run(recipe_of(replace(_STAGE2, data=Scenes(2, videos=1))), still, tmp_path / "run")


def test_a_stage_may_learn_from_shapes_alone(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    assert shop.drawn is not None
    rows = json.loads((tmp_path / "scenes" / "shard-0000.json").read_text())
    for place in (1, 2, 5, 7):
        star = {**rows[place]["scene"]["objects"][0], "name": "star", "kind": "shape"}
        rows[place]["scene"] = {**rows[place]["scene"], "objects": [star], "kind": "shapes"}
    (tmp_path / "scenes" / "shard-0000.json").write_text(json.dumps(rows))
    shop = replace(shop, drawn=replace(shop.drawn, scenes=PreparedScenes(tmp_path / "scenes")))
    stage = replace(_GROUND, data=Scenes(2, only_shapes=True, held_out=2))
    collator = build_collator(stage, shop, 0)
    assert isinstance(collator, SceneCollator)
    assert set(collator.names) == set(SHAPES)
    mixture, held = open_data(stage, shop, collator, 0, Skipped(tmp_path / "skipped", 0))
    assert isinstance(mixture, Mixture)
    assert {mixture.at(position).index for position in range(8)} == {1, 2}
    assert [scene.index for scene in held[""].items] == [5, 7]
    for data, words in (
        (
            Scenes(2, only_shapes=True, imagined=0.5),
            "imagined is 0.5 and videos 0, which show other things; set them to",
        ),
        (
            Scenes(2, only_shapes=True, held_out=4),
            "held_out is 4, but there are only 4 scenes of only shapes; draw more with",
        ),
    ):
        other = replace(stage, data=data)
        with pytest.raises(ConfigError, match=words):
            open_data(other, shop, build_collator(other, shop, 0), 0, Skipped(tmp_path / "skipped", 0))


def test_kinds_of_scenes_are_drawn_as_often_as_asked_for(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    assert shop.drawn is not None
    rows = json.loads((tmp_path / "scenes" / "shard-0000.json").read_text())
    for place, row in enumerate(rows):
        row["scene"]["kind"] = "pair" if place in (1, 6) else "single"
    (tmp_path / "scenes" / "shard-0000.json").write_text(json.dumps(rows))
    shop = replace(shop, drawn=replace(shop.drawn, scenes=PreparedScenes(tmp_path / "scenes")))

    def drawn(held_out: int = 0, **kinds: float) -> list[int]:
        stage = replace(_GROUND, data=Scenes(2, scene_kinds=kinds, held_out=held_out))  # type: ignore[arg-type]
        mixture, _ = open_data(stage, shop, build_collator(stage, shop, 0), 0, Skipped(tmp_path / "skipped", 0))
        assert isinstance(mixture, Mixture)
        return [mixture.at(position).index for position in range(mixture.epoch_length)]

    assert sorted(drawn()) == list(range(8))
    assert sum(index in (1, 6) for index in drawn(single=2, pair=6)) == 6
    assert set(drawn(pair=1, single=0)) == {1, 6}
    assert 1 in drawn(held_out=2, pair=1, single=1)
    assert 6 not in drawn(held_out=2, pair=1, single=1)
    assert drawn(held_out=1, pair=1) == [1]  # of the kinds that are asked for, the last are held out
    with pytest.raises(
        ConfigError, match=r"'ground': none of its 2 scenes is 'count', which is asked for; set scene_kinds to"
    ):
        drawn(pair=1, count=1)


def test_scenes_on_panoramas_are_drawn_as_often_as_asked_for(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    assert shop.drawn is not None
    rows = json.loads((tmp_path / "scenes" / "shard-0000.json").read_text())
    for place, row in enumerate(rows):
        row["scene"]["kind"] = "count" if place % 2 else "single"
        row["scene"]["behind"] = ["window"] if place in (0, 1) else []
    (tmp_path / "scenes" / "shard-0000.json").write_text(json.dumps(rows))
    shop = replace(shop, drawn=replace(shop.drawn, scenes=PreparedScenes(tmp_path / "scenes")))

    def drawn(share: float | None, held_out: int = 0, **kinds: float) -> list[int]:
        data = Scenes(2, scene_kinds=kinds, on_panoramas=share, held_out=held_out)  # type: ignore[arg-type]
        stage = replace(_GROUND, data=data)
        mixture, _ = open_data(stage, shop, build_collator(stage, shop, 0), 0, Skipped(tmp_path / "skipped", 0))
        assert isinstance(mixture, Mixture)
        return [mixture.at(position).index for position in range(mixture.epoch_length)]

    assert sorted(drawn(None)) == list(range(8))
    assert set(drawn(1.0)) == {0, 1}
    assert set(drawn(0.0)) == set(range(2, 8))
    assert sum(index in (0, 1) for index in drawn(0.75)) == 6
    assert set(drawn(1.0, count=1)) == {1}
    assert sum(index == 1 for index in drawn(0.5, count=1)) == 2  # of the four that count
    with pytest.raises(ConfigError, match="held_out is 2, but there are only 2 scenes"):
        drawn(1.0, held_out=2)  # of those that it might learn from
    with pytest.raises(
        ConfigError, match="none of its 1 scenes is 'pair' on a panorama, which .*; set scene_kinds and on_panoramas to"
    ):
        drawn(1.0, count=1, pair=1)


def test_context_learns_alone_and_goes_into_the_result(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    before = {name: value.clone() for name, value in shop.model.state_dict().items()}
    stage = replace(_ALIGN, name="context", learning_rates={"context": 1e-2, "helper": 1e-2})
    run(recipe_of(stage), shop, tmp_path / "run")
    after, kept = shop.model.state_dict(), load_file(tmp_path / "run/adapter.safetensors")
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    moved -= {name for name in before if ".multi_modal_projector." in name}  # which is begun, and learns nothing
    assert moved == {name for name in before if ".patch_context." in name}
    for name in moved:
        torch.testing.assert_close(kept[name].float(), after[name], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("part", ["context", "pre_fusion"])
def test_a_part_that_is_not_there_is_missed_before_the_first_stage(tmp_path: Path, part: str) -> None:
    bare = tiny_model(**EMBEDDED | {"fusion_context": 0, "fusion_layers": 0})
    missing = replace(_ALIGN, name="late", learning_rates={part: 1e-2})
    words = rf"'late' teaches {part}, but the model .* set stages.late.learning_rates.{part} to null"
    with pytest.raises(ConfigError, match=words):
        run(recipe_of(_ALIGN, missing), replace(workshop(tmp_path), model=bare), tmp_path / "run")
    assert not (tmp_path / "run" / "align").exists()


def test_scenes_that_are_not_there_are_missed_before_the_first_stage(tmp_path: Path) -> None:
    late = replace(_ALIGN, name="late", data=Scenes(2, on_panoramas=1.0))
    with pytest.raises(ConfigError, match=r"'late': none of its 8 scenes is on a panorama, .*; set on_panoramas to"):
        run(recipe_of(_ALIGN, late), workshop(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run" / "align").exists()


def test_what_reads_mentions_goes_on_from_stage_to_stage_and_into_no_result(tmp_path: Path) -> None:
    still = replace(_STAGE2, learning_rates={"lora": 1e-2, "helper": 0.0})
    run(recipe_of(_GROUND, still), workshop(tmp_path), tmp_path / "run")
    first, second = (load_file(tmp_path / "run" / name / "trained.safetensors") for name in ("ground", "two"))
    read = [name for name in first if name.startswith("helper.")]
    assert "helper.scale" in read
    assert all(torch.equal(first[name], second[name]) for name in read)
    assert not any("helper" in name for name in load_file(tmp_path / "run/adapter.safetensors"))
    align_again = replace(_ALIGN, name="align-again", learning_rates={"helper": 0.0})
    run(recipe_of(_ALIGN, _GROUND, align_again, still), workshop(tmp_path), tmp_path / "both")
    kinds = [
        load_file(tmp_path / "both" / name / "trained.safetensors")
        for name in ("align", "ground", "align-again", "two")
    ]
    for one, other in (kinds[0], kinds[2]), (kinds[1], kinds[3]):
        kept = [name for name in one if name.startswith(("helper.", "sharpness"))]
        assert kept
        assert all(torch.equal(one[name], other[name]) for name in kept)
    assert "sharpness" in kinds[0]


def test_grounding_beside_answers_adds_its_weight_and_asks_the_same_pictures(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    assert shop.drawn is not None
    torch.manual_seed(0)
    reader = MentionReader(shop.drawn.table)
    batch = build_collator(_STAGE2, shop, 0).join([shop.drawn.scenes[0], shop.drawn.scenes[1]])  # type: ignore[list-item]
    losses = [
        float(Answers(shop.model, through="answers", reader=reader, grounding_weight=weight)(**batch)["loss"].detach())
        for weight in (0.0, 0.5)
    ]
    alone = WordGrounding(shop.model, shop.drawn.table)
    alone.helper = reader
    shown = batch["vision_features"][:2]
    expected = float(alone(vision_features=shown, mentions=batch["mentions"])["loss"].detach())
    assert losses[1] - losses[0] == pytest.approx(0.5 * expected, rel=1e-4)


@pytest.mark.parametrize("stage", [_GROUND, _STAGE2], ids=lambda stage: stage.name)
def test_without_silence_words_that_name_nothing_may_say_anything(tmp_path: Path, stage: Stage) -> None:
    shop = workshop(tmp_path)
    assert shop.drawn is not None
    batch = build_collator(stage, shop, 0).join([shop.drawn.scenes[0], shop.drawn.scenes[1]])  # type: ignore[list-item]
    pulls = []
    for weight in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        objective = build_objective(replace(stage, silence_weight=weight), shop)
        objective(**batch)["loss"].backward()
        pulls.append(objective.helper.silence.grad)
    assert not pulls[0].any()
    assert pulls[2].any()
    torch.testing.assert_close(pulls[1], pulls[2] / 2)


def test_grounding_beside_answers_needs_words_that_are_fused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'one' fuses no words; set its grounding_weight to 0"):
        run(recipe_of(replace(_STAGE1, grounding_weight=0.1)), workshop(tmp_path), tmp_path / "run")


def test_whole_tensors_come_before_the_lora_that_is_added_to_them() -> None:
    model = tiny_model(**EMBEDDED)
    name = "model.language_model.layers.0.self_attn.q_proj"
    weight = model.state_dict()[f"{name}.weight"]
    down, up, whole = torch.ones(1, weight.shape[1]), torch.ones(weight.shape[0], 1), torch.zeros_like(weight)
    load_adapter(model, {f"{name}.lora_A": down, f"{name}.lora_B": up, f"{name}.weight": whole})
    assert bool((model.state_dict()[f"{name}.weight"] == 2).all())


def test_a_trained_start_goes_on_with_its_own_lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(recipe_of(_STAGE2), workshop(tmp_path), tmp_path / "once")
    before = load_file(tmp_path / "once" / "adapter.safetensors")
    monkeypatch.setattr("llava_mini.training.workshop.read_adapter", lambda: dict(before))
    monkeypatch.setattr("llava_mini.training.workshop.assemble", lambda **_: (tiny_model(**EMBEDDED), None))
    (tmp_path / "data.json").write_text("[]")
    examples = Files(files=(DataFile(str(tmp_path / "data.json")),))
    files = replace(recipe_of(Stage("none", "answers", {"lora": 0.0}, examples)), start=Embedded(trained=True))
    for name, stage in (("answers", replace(_STAGE2, name="again")), ("grounding", replace(_GROUND, name="again"))):
        started = open_workshop(files, tmp_path, scenes=tmp_path, videos=tmp_path, texts=tmp_path, sources=tmp_path)
        out = tmp_path / name
        run(replace(files, stages=(stage,)), replace(workshop(tmp_path), model=started.model), out)
        after = load_file(out / "adapter.safetensors")
        assert {key: value.shape for key, value in after.items()} == {k: value.shape for k, value in before.items()}
        learned = any(not torch.equal(after[key], value) for key, value in before.items() if ".lora_" in key)
        assert learned == ("lora" in stage.learning_rates)
        model = tiny_model(**EMBEDDED)
        plain = {key: value.clone() for key, value in model.state_dict().items()}
        load_adapter(model, after)
        saved, state = load_file(out / "model" / "model.safetensors"), model.state_dict()
        assert any("language_model" in key and not torch.equal(value, plain[key]) for key, value in state.items())
        for key in saved.keys() & state.keys():
            torch.testing.assert_close(state[key], saved[key], atol=1e-5, rtol=1e-4)


def test_lora_that_does_not_fit_is_refused_before_a_stage_is_trained(tmp_path: Path) -> None:
    name = "model.language_model.layers.{}.self_attn.q_proj"
    lora = {f"{name.format(0)}.lora_A": torch.ones(2, 32), f"{name.format(0)}.lora_B": torch.ones(32, 2)}
    shop = workshop(tmp_path)
    take_over_lora(shop.model, lora)
    other = replace(_STAGE2, lora_rank=3)
    with pytest.raises(
        ConfigError, match="'two' has LoRA of rank 3 on language_model, .* the start has LoRA of rank 2 on"
    ):
        run(recipe_of(_ALIGN, other), shop, tmp_path / "run")
    assert not (tmp_path / "run" / "align").exists()
    with pytest.raises(ModelError, match=r"ranks \[2, 3\]; one for all"):
        take_over_lora(tiny_model(**EMBEDDED), {**lora, f"{name.format(1)}.lora_A": torch.ones(3, 32)})
    with pytest.raises(ModelError, match=r"layers\.9\..* has no place in the model"):
        take_over_lora(tiny_model(**EMBEDDED), {f"{name.format(9)}.lora_A": torch.ones(2, 32)})


def test_silence_goes_on_with_what_a_trained_start_says(tmp_path: Path) -> None:
    stage = replace(_GROUND, learning_rates={"pre_fusion": 1e-2, "helper": 0.0})
    expected = workshop(tmp_path)
    objective = build_objective(stage, expected)
    begin_silence(objective, expected, build_collator(stage, expected, 0))
    added = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    reader = MentionReader(expected.drawn.table)  # type: ignore[union-attr]
    reader.begin_silence(added, torch.tensor([[0, 1], [0, 3]]))
    quiet = F.normalize(added[0, [1, 3]], dim=-1).sum(dim=0)
    torch.testing.assert_close(reader.silence, F.normalize(quiet, dim=0) * 32**0.5)
    for trained in (True, False):
        out = tmp_path / f"trained-{trained}"
        run(replace(recipe_of(stage), start=Embedded(trained=trained)), workshop(tmp_path), out)
        silence = load_file(out / "ground" / "trained.safetensors")["helper.silence"]
        alike = F.cosine_similarity(silence, objective.helper.silence, dim=0)
        assert (float(alike) > 0.9) == trained


def test_unknown_parts_recipes_and_missing_scenes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'tower'"):
        learn_only(torch.nn.Linear(1, 1), ["tower"])
    with pytest.raises(ConfigError, match="'embeded'.*embedded"):
        find_recipe("embeded")
    with pytest.raises(DataError, match="llava-mini data scenes"):
        PreparedScenes(tmp_path)


def test_a_second_stage_with_lora_goes_on_with_the_first_ones(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    run(recipe_of(_STAGE2), shop, tmp_path / "one")
    learned = load_file(tmp_path / "one" / "two" / "trained.safetensors")
    still = replace(_STAGE2, name="again", learning_rates={"lora": 0.0})
    both = workshop(tmp_path)
    run(recipe_of(_STAGE2, still), both, tmp_path / "both")
    after = load_file(tmp_path / "both" / "again" / "trained.safetensors")
    names = [name for name in learned if "lora_B" in name]
    assert names
    assert all(torch.equal(after[name], learned[name]) for name in names)
    assert any(bool(after[name].abs().sum() > 0) for name in names)


def test_stages_with_loras_of_two_ranks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match="'again' has LoRA of rank 3 .*, an earlier stage or the start has LoRA of rank 2",
    ):
        run(
            recipe_of(_STAGE2, replace(_STAGE2, name="again", lora_rank=3)),
            workshop(tmp_path),
            tmp_path / "run",
        )


def test_pictures_and_videos_are_learned_from_in_one_step(tmp_path: Path) -> None:
    videos = made_videos(tmp_path / "videos")
    assert [len(videos[i].features) for i in range(4)] == [2, 3, 2, 3]
    shop, scenes = with_videos(tmp_path, videos)
    stage = replace(_STAGE2, data=Scenes(2, videos=2))
    batch = build_collator(stage, shop, 0).join([scenes[0], scenes[1]])
    assert batch["vision_features"].shape == (int(batch["frames"].sum()), 1, 16, 48)
    assert batch["frames"].tolist()[:2] == [1, 1]
    is_image = batch["input_ids"] == shop.model.config.image_token_id
    assert is_image.sum(dim=1).tolist() == batch["frames"][batch["picture"]].tolist()
    run(
        recipe_of(
            stage,
        ),
        shop,
        tmp_path / "run",
    )
    logged = [json.loads(line) for line in (tmp_path / "run/two/loss.jsonl").read_text().splitlines()]
    assert math.isfinite(logged[-1]["loss"])


def test_a_video_in_a_batch_learns_as_it_does_alone(tmp_path: Path) -> None:
    videos = made_videos(tmp_path / "videos")
    shop, scenes = with_videos(tmp_path, videos)
    objective = build_objective(_STAGE2, shop).eval()
    batch = build_collator(replace(_STAGE2, data=Scenes(1, videos=3)), shop, 0).join([scenes[0]])
    starts = batch["frames"].cumsum(dim=0) - batch["frames"]
    losses = []
    for row, picture in enumerate(batch["picture"].tolist()):
        frames = batch["frames"][picture : picture + 1]
        present = int(batch["attention_mask"][row].sum())
        one = {name: batch[name][row : row + 1, :present] for name in ("input_ids", "attention_mask", "labels")}
        features = batch["vision_features"][starts[picture] : starts[picture] + int(frames)]
        out = objective(vision_features=features, frames=frames, picture=torch.tensor([0]), **one)
        losses.append(float(out["answer_loss"]) * int((one["labels"] != -100).sum()))
    together = float(objective(**batch)["answer_loss"]) * int((batch["labels"] != -100).sum())
    assert together == pytest.approx(sum(losses), rel=1e-4)


def with_videos(tmp_path: Path, videos: PreparedScenes) -> tuple[Workshop, PreparedScenes]:
    shop = workshop(tmp_path)
    assert shop.drawn is not None
    return replace(shop, drawn=replace(shop.drawn, videos=videos)), shop.drawn.scenes


@pytest.mark.parametrize("objective", ["all_tokens", "grounding", "answers"])
def test_pictures_in_tiles_are_learned_from(tmp_path: Path, objective: Any) -> None:
    model = tiny_model(**EMBEDDED, tiles=2)
    made_scenes(tmp_path / "scenes", parts=5)
    shop = replace(workshop(tmp_path), model=model, processor=tiny_processor(model.config))
    rates = {"projector": 1e-3} if objective == "all_tokens" else {"pre_fusion": 1e-3, "helper": 1e-3}
    stage = Stage("hd", objective, rates, Scenes(2), 2, grounding_weight=float(objective == "answers"))
    align = Stage("align", "alignment", {"projector": 1e-2}, Scenes(2), 1)
    run(recipe_of(align, stage), shop, tmp_path / "run")
    assert (tmp_path / "run/adapter.safetensors").is_file()
    with pytest.raises(ConfigError, match="imagines classes, but pictures are in tiles"):
        run(recipe_of(replace(stage, name="other", data=Scenes(2, imagined=0.5))), shop, tmp_path / "other")
