"""Prepared scenes → the batches of each objective; which questions are asked is drawn anew in every step.

M pictures and videos · F frames · B questions · L text.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llava_mini.data.names import are_kin
from llava_mini.data.prepared import PreparedScene, PreparedScenes
from llava_mini.data.questions import Question, ask_name, ask_presence
from llava_mini.inputs.chat import ChatTokens, tokenize_chat
from llava_mini.inputs.processor import LlavaMiniProcessor
from llava_mini.training.alignment import WordTable, alignment_targets, imagine_classes
from llava_mini.training.stages import Scenes, Stage


@dataclass
class SceneCollator:
    """Turn scenes into a batch; part of them get an ImageNet class planted into their features."""

    stage: Stage
    processor: LlavaMiniProcessor
    table: WordTable
    classifier: nn.Linear | None
    """The tower's classifier, whose classes are planted; None: nothing is planted."""
    class_names: list[str]
    tokens_per_frame: int
    seed: int = 0
    videos: PreparedScenes | None = None
    """Made videos; `videos` of them join every batch."""

    @property
    def data(self) -> Scenes:
        """What the stage learns from."""
        assert isinstance(self.stage.data, Scenes)
        return self.stage.data

    def prepare(self, item: PreparedScene) -> PreparedScene:
        """Return the scene: it was made ready once, by `llava-mini data scenes`."""
        return item

    def __post_init__(self) -> None:
        counts: dict[str, int] = {}
        for name in self.class_names:
            counts[name] = counts.get(name, 0) + 1
        # 118 classes are dogs: a name with n classes is drawn only n^0.25 times as often as a name with one.
        self._chances = torch.tensor([counts[name] ** -0.75 for name in self.class_names])
        self._tokens: dict[tuple[str, str, int], ChatTokens] = {}

    def join(self, scenes: Sequence[PreparedScene]) -> dict[str, Tensor]:
        """Build a batch; chance hangs on the seed and on which scenes meet, so a resumed run draws the same."""
        rng = random.Random(f"{self.seed}/{[scene.index for scene in scenes]}")
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        planted = [rng.random() < self.data.imagined and self.classifier is not None for _ in scenes]
        features = torch.cat([scene.features for scene in scenes])  # (M, P, N², d_v)
        classes = torch.multinomial(self._chances, len(scenes), replacement=True, generator=generator)
        if self.classifier is not None and any(planted):
            rows = torch.tensor(planted)
            with torch.no_grad():
                features[rows, 0] = imagine_classes(
                    features[rows, 0], self.classifier, classes[rows], generator=generator
                )
        names = [self.class_names[int(number)] if here else None for number, here in zip(classes, planted, strict=True)]
        if self.stage.objective == "alignment":
            return self._alignment(scenes, features, names)
        return self._answers(scenes, features, names, rng)

    def _alignment(
        self, scenes: Sequence[PreparedScene], features: Tensor, planted: list[str | None]
    ) -> dict[str, Tensor]:
        batch = alignment_targets(list(scenes), self.table)
        whole = features[:, -1]  # of a picture in tiles, the whole one
        changed = (whole - batch["vision_features"]).abs().amax(dim=-1) > 0  # (M, N²)
        for row, name in enumerate(planted):
            if name is not None:
                batch["names"][row] = torch.where(changed[row], self.table.index(name), -100)
                batch["colours"][row] = -100
                batch["main"][row] = self.table.index(name)
        return {**batch, "vision_features": whole}

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
            for question in self._questions(scene, name, rng):
                chats.append(self._tokenize(question, medium, len(shown[row])))
                picture.append(row)
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
        }

    def _questions(self, scene: PreparedScene, planted: str | None, rng: random.Random) -> list[Question]:
        if planted is not None:
            other = rng.choice([name for name in self.class_names if not are_kin(name, planted)])
            present = rng.random() < 0.5
            return [ask_name(planted, rng), ask_presence(planted if present else other, rng, present=present)]
        fitting = [q for q in scene.questions if q.kind in self.data.kinds] or scene.questions
        one_of_each = list({q.kind: q for q in rng.sample(fitting, len(fitting))}.values())
        return rng.sample(one_of_each, min(self.data.questions_per_picture, len(one_of_each)))

    def _tokenize(self, question: Question, medium: Literal["image", "video"], frames: int) -> ChatTokens:
        """Tokenize one turn, its placeholder expanded."""
        key = (question.text, question.answer, frames if medium == "video" else 0)
        if key not in self._tokens:
            messages: list[dict[str, Any]] = [
                {"role": "user", "content": [{"type": medium}, {"type": "text", "text": question.text}]},
                {"role": "assistant", "content": question.answer},
            ]
            chat = tokenize_chat(self.processor.tokenizer, messages, str(self.processor.chat_template))
            place, token = self.processor.placeholders[medium], self.processor.image_token_id
            repeats = [frames * self.tokens_per_frame if i == place else 1 for i in chat.ids]
            self._tokens[key] = ChatTokens(
                [token if i == place else i for i, n in zip(chat.ids, repeats, strict=True) for _ in range(n)],
                [answer for answer, n in zip(chat.answers, repeats, strict=True) for _ in range(n)],
            )
        return self._tokens[key]
