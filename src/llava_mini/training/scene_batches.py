"""Prepared scenes → the batches of each objective; which questions are asked is drawn anew in every step.

M pictures and videos · F frames · B questions · L text.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llava_mini.data.collator import pack_rows
from llava_mini.data.mentions import draw_absent, mention_one, mention_things
from llava_mini.data.prepared import PreparedScene, PreparedScenes
from llava_mini.data.questions import Question, ask_about, ask_name, ask_presence
from llava_mini.data.relations import ask_relations, ask_sides
from llava_mini.inputs.chat import ChatTokens, tokenize_chat
from llava_mini.inputs.processor import LlavaMiniProcessor
from llava_mini.training.alignment import WordTable, alignment_targets, imagine_classes, imagine_photographs
from llava_mini.training.grounding import grounding_batch
from llava_mini.training.stages import Scenes, Stage

_ROW_TOKENS = 192
"""A packed row of the language model, at least."""


@dataclass
class SceneCollator:
    """Turn scenes into a batch; part of them get an ImageNet class planted into their features."""

    stage: Stage
    processor: LlavaMiniProcessor
    table: WordTable
    classifier: nn.Linear | None
    """The tower's classifier, whose classes are planted; None: nothing is planted."""
    class_names: list[str]
    names: Sequence[str]
    """Names that scenes can show; absent things are drawn from them."""
    tokens_per_frame: int
    seed: int = 0
    videos: PreparedScenes | None = None
    """Made videos; `videos` of them join every batch."""
    texts: Sequence[tuple[str, str]] = ()
    """Questions without pictures and their answers; `texts` of them join every batch."""

    @property
    def data(self) -> Scenes:
        """What the stage learns from."""
        assert isinstance(self.stage.data, Scenes)
        return self.stage.data

    def prepare(self, item: PreparedScene) -> PreparedScene:
        """Return the scene: it was made ready once, by `llava-mini data scenes`."""
        return item

    def __post_init__(self) -> None:
        counts = Counter(self.class_names)
        # 118 classes are dogs: a name with n classes is drawn only n^0.25 times as often as a name with one.
        self._name_chances = {name: count**0.25 for name, count in counts.items()}
        self._class_chances = torch.tensor([self._name_chances[name] / counts[name] for name in self.class_names])

    def join(self, scenes: Sequence[PreparedScene], number: int = 0) -> dict[str, Any]:
        """Build a batch; chance hangs on seed, number and scenes, so a resumed run draws the same."""
        rng = random.Random(f"{self.seed}/{number}/{[scene.index for scene in scenes]}")
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        planted = [rng.random() < self.data.imagined and self.classifier is not None for _ in scenes]
        features = torch.cat([scene.features for scene in scenes])  # (M, P, N², d_v)
        moved = torch.zeros(len(scenes), features.shape[2], dtype=torch.bool)  # cells that show an imagined class
        classes = torch.multinomial(self._class_chances, len(scenes), replacement=True, generator=generator)
        if self.classifier is not None and any(planted):
            photographs = torch.tensor([here and self._is_photograph(rng) for here in planted])
            for rows, imagine in (
                (torch.tensor(planted) & ~photographs, imagine_classes),
                (photographs, imagine_photographs),
            ):
                with torch.no_grad():
                    features[rows, 0], moved[rows] = imagine(
                        features[rows, 0], self.classifier, classes[rows], generator=generator
                    )
        names = [self.class_names[int(number)] if here else None for number, here in zip(classes, planted, strict=True)]
        if self.stage.objective == "alignment":
            return self._alignment(scenes, features, names, moved)
        if self.stage.objective == "grounding":
            return {"vision_features": features, "mentions": self._grounding(scenes, names, rng)}
        batch: dict[str, Any] = self._answers(scenes, features, names, rng)
        if self.stage.grounding_weight:
            batch["mentions"] = self._grounding(scenes, names, rng)
        return batch

    def _is_photograph(self, rng: random.Random) -> bool:
        return bool(self.data.photographs) and rng.random() < self.data.photographs

    def _alignment(
        self, scenes: Sequence[PreparedScene], features: Tensor, planted: list[str | None], moved: Tensor
    ) -> dict[str, Tensor]:
        batch = alignment_targets(list(scenes), self.table)
        whole = features[:, -1]  # of a picture in tiles, the whole one
        for row, name in enumerate(planted):
            if name is not None:
                batch["names"][row] = torch.where(moved[row], self.table.index(name), -100)
                batch["colours"][row] = -100
                batch["boxes"][row] = float("nan")
                batch["centres"][row], batch["number"][row] = float("nan"), -100
                batch["main"][row] = self.table.index(name)
        return {**batch, "vision_features": whole}

    def _grounding(
        self, scenes: Sequence[PreparedScene], planted: list[str | None], rng: random.Random
    ) -> dict[str, Tensor]:
        rows = [
            mention_things(
                one.known, rng, self.names, self.data.mentions, pairs=self.data.pairs, claims=self.data.claims
            )
            if name is None
            else mention_one(name, rng, self._absent(one, name, rng, count=1))
            for one, name in zip(scenes, planted, strict=True)
        ]
        return grounding_batch(rows, self.table, self.processor.tokenizer, rng)

    def _answers(
        self, scenes: Sequence[PreparedScene], features: Tensor, planted: list[str | None], rng: random.Random
    ) -> dict[str, Tensor]:
        films = self.videos
        videos = [films[rng.randrange(len(films))] for _ in range(self.data.videos)] if films else []
        shown = [*features[:, None], *(video.features for video in videos)]
        chats: list[ChatTokens] = []
        picture: list[int] = []
        for row, (scene, name) in enumerate(zip([*scenes, *videos], [*planted, *(None for _ in videos)], strict=True)):
            medium: Literal["image", "video"] = "image" if row < len(scenes) else "video"
            for asked in self._conversations(scene, name, rng):
                turns = [(question.text, question.answer) for question in asked]
                chats.append(self._tokenize(turns, medium, len(shown[row])))
                picture.append(row)
        if self.data.texts and self.texts:
            chats += [self._tokenize([turn], None, 0) for turn in rng.sample(self.texts, self.data.texts)]
            picture += [len(shown)] * self.data.texts
            shown.append(features[:0])  # a text alone shows nothing
        longest = max(len(chat.ids) for chat in chats)
        input_ids = torch.zeros(len(chats), longest, dtype=torch.long)
        attention_mask, labels = torch.zeros_like(input_ids), torch.full_like(input_ids, -100)
        for row, chat in enumerate(chats):
            ids = torch.tensor(chat.ids)
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
            labels[row, : len(ids)] = torch.where(torch.tensor(chat.answers), ids, -100)
        return {
            "vision_features": torch.cat(shown),
            "frames": torch.tensor([len(frames) for frames in shown]),
            "picture": torch.tensor(picture),
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": labels,
            "packed": pack_rows([len(chat.ids) for chat in chats], longest, max(longest, _ROW_TOKENS)),
        }

    def _conversations(
        self, scene: PreparedScene, planted: str | None, rng: random.Random
    ) -> Iterator[Sequence[Question]]:
        # Of what comes first, next and last one answer gives another away, so a video's questions stand alone.
        turns = 1 if scene.scene is None else self.data.turns
        yield from _divide(self._questions(scene, planted, rng), turns, rng)
        if self.data.sides and planted is None and scene.scene is not None:
            yield from ([question] for question in ask_sides(scene.scene, rng, self.data.sides))

    def _questions(self, scene: PreparedScene, planted: str | None, rng: random.Random) -> list[Question]:
        if planted is not None:
            absent = self._absent(scene, planted, rng, count=1) if rng.random() < 0.5 else []
            name = absent[0] if absent else planted
            return [ask_name(planted, rng), ask_presence(name, rng, present=not absent)]
        asked = scene.questions if scene.scene is None else ask_about(scene.scene, rng, self.names)
        fitting = [question for question in asked if question.kind in self.data.kinds] or asked
        if scene.scene is None:
            return list(fitting)
        one_of_each = list({q.kind: q for q in rng.sample(fitting, len(fitting))}.values())
        wanted, most = self.data.first, self.data.questions_per_picture
        first = sorted((q for q in one_of_each if q.kind in wanted), key=lambda q: wanted.index(q.kind))
        others = [question for question in one_of_each if question.kind not in wanted]
        drawn = [*first, *rng.sample(others, min(most, len(others)))][:most]
        if not self.data.relations:
            return drawn
        rounds = [ask_relations(scene.scene, rng) for _ in range(self.data.relations)]
        return [*drawn, *[question for asked in rounds for question in asked][: self.data.relations]]

    def _absent(self, scene: PreparedScene, planted: str, rng: random.Random, *, count: int) -> list[str]:
        """Draw class names that are neither planted nor in the scene beneath, as often as they are planted."""
        return draw_absent(self._name_chances, rng, [planted, *scene.known.shown], count)

    def _tokenize(
        self, turns: Sequence[tuple[str, str]], medium: Literal["image", "video"] | None, frames: int
    ) -> ChatTokens:
        """Tokenize a conversation, its placeholder expanded."""
        messages: list[dict[str, Any]] = []
        for text, answer in turns:
            content = [{"type": medium}] if medium and not messages else []
            messages.append({"role": "user", "content": [*content, {"type": "text", "text": text}]})
            messages.append({"role": "assistant", "content": answer})
        chat = tokenize_chat(self.processor.tokenizer, messages, str(self.processor.chat_template))
        place, token = self.processor.placeholders.get(medium or "image"), self.processor.image_token_id
        repeats = [frames * self.tokens_per_frame if i == place else 1 for i in chat.ids]
        return ChatTokens(
            [token if i == place else i for i, n in zip(chat.ids, repeats, strict=True) for _ in range(n)],
            [answer for answer, n in zip(chat.answers, repeats, strict=True) for _ in range(n)],
        )


def _divide(asked: Sequence[Question], most: int, rng: random.Random) -> Iterator[Sequence[Question]]:
    """Divide questions about one picture into conversations of one turn to `most`."""
    start = 0
    while start < len(asked):
        length = rng.randint(1, most)
        yield asked[start : start + length]
        start += length
