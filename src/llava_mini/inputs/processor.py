"""Text and media → the tensors of the model, for one conversation or a batch.

B batch · F frames · P parts · L text · C² tokens of a frame.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import InputError
from llava_mini.inputs.chat import IMAGE_TOKEN, MEDIA_KEYS, VIDEO_TOKEN, ChatTokens, Messages, tokenize_chat
from llava_mini.inputs.media import FrameSampling, Picture, Source, Video, load_media, open_picture
from llava_mini.inputs.memory import release_freed
from llava_mini.inputs.placeholders import in_order, in_rows
from llava_mini.inputs.tiling import tiles

Media = Picture | Video
_RELEASE_EVERY = 16  # chunks


class LlavaMiniProcessor(ProcessorMixin):
    """Prepare pictures, videos and conversations for `LlavaMiniForConditionalGeneration`.

    Pictures and the frames of videos go one way: `pixel_values` `(B, F, P, 3, H, W)`, padded over F with zeros.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        tokens_per_frame: int = 1,
        tiles: int = 1,
        image_aspect_ratio: Literal["crop", "pad", "stretch"] = "pad",
        fps: float = 1.0,
        max_frames: int = 128,
        padding_side: Literal["left", "right"] = "left",
        **_: Any,
    ) -> None:
        self.tokens_per_frame = tokens_per_frame
        self.tiles = tiles
        self.image_aspect_ratio = image_aspect_ratio
        self.fps = fps
        self.max_frames = max_frames
        tokenizer.padding_side = self.padding_side = padding_side  # a tokenizer may forget it when it is saved
        self.image_token, self.video_token = IMAGE_TOKEN, VIDEO_TOKEN
        missing = [token for token in (IMAGE_TOKEN, VIDEO_TOKEN) if token not in tokenizer.get_added_vocab()]
        if missing:
            tokenizer.add_special_tokens({"additional_special_tokens": missing}, replace_extra_special_tokens=False)
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_config(
        cls, config: LlavaMiniConfig, image_processor: Any, tokenizer: Any, chat_template: str
    ) -> "LlavaMiniProcessor":
        """Build the processor that fits a model."""
        return cls(
            image_processor,
            tokenizer,
            chat_template=chat_template,
            tokens_per_frame=config.tokens_per_frame,
            tiles=config.tiles,
            image_aspect_ratio=config.image_aspect_ratio,
        )

    @property
    def parts_per_frame(self) -> int:
        """P: the whole picture, and its tiles if it is cut."""
        return 1 if self.tiles == 1 else self.tiles**2 + 1

    @property
    def sampling(self) -> FrameSampling:
        """Which frames of a video are looked at, unless somebody says otherwise."""
        return FrameSampling(self.fps, self.max_frames)

    @property
    def placeholders(self) -> dict[str, int]:
        """The token that stands for each kind of medium in a template."""
        return {"image": self.image_token_id, "video": self.video_token_id}

    def prepare_frames(self, frames: Sequence[Image.Image]) -> Tensor:
        """Cut, resize and normalise RGB pictures: `(F, P, 3, H, W)`."""
        side = side_px(self.image_processor)
        parts = [part for frame in frames for part in tiles(frame, self.tiles, side, aspect=self.image_aspect_ratio)]
        pixels = self.image_processor(parts, return_tensors="pt")["pixel_values"]
        return torch.as_tensor(pixels).unflatten(0, (len(frames), -1))

    def prepare_in_chunks(self, media: Sequence[Media], size: int) -> Iterator[Tensor]:
        """Decode and prepare pictures and videos, `size` frames at a time: `(size, P, 3, H, W)`."""
        frames = chain.from_iterable(frames_of(item) for item in media)
        for number in count():
            chunk = list(islice(frames, size))
            if not chunk:
                return
            yield self.prepare_frames(chunk)
            if number % _RELEASE_EVERY == _RELEASE_EVERY - 1:
                release_freed()

    def __call__(
        self, images: Any = None, text: str | list[str] | None = None, videos: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Tokenize texts in which `<image>` and `<video>` stand where the media go.

        Args:
            images: a picture, a list of them for one text, or a list a text. Files, bytes or PIL pictures.
            videos: the same for videos: files, or lists of frames.

        Raises:
            InputError: when placeholders and media do not fit together.
        """
        kwargs.pop("return_tensors", None)
        if text is None:
            raise InputError("the processor got no text; give a prompt, or a list of prompts")
        texts = [text] if isinstance(text, str) else list(text)
        chats = []
        for prompt in texts:
            ids = self.tokenizer(prompt, add_special_tokens=kwargs.get("add_special_tokens", True))["input_ids"]
            chats.append(ChatTokens(ids, [False] * len(ids)))
        pictures = [[_picture(item) for item in row] for row in in_rows(images, chats, self.image_token_id)]
        clips = [[self._video(item) for item in row] for row in in_rows(videos, chats, self.video_token_id, clips=True)]
        media = [
            in_order(chat.ids, self.image_token_id, self.video_token_id, row_images, row_videos)
            for chat, row_images, row_videos in zip(chats, pictures, clips, strict=True)
        ]
        return self._batch(chats, media)

    def apply_chat_template(self, conversation: Any, chat_template: str | None = None, **kwargs: Any) -> Any:
        """Render a conversation, or a batch of them; with `tokenize=True` load its media and give model inputs.

        A content part is `{"type": "text", "text": …}`, `{"type": "image", "image" or "path": …}` or
        `{"type": "video", "video" or "path": …}`. `instruction_mask` marks all but the answers.
        """
        if not kwargs.pop("tokenize", False):
            return super().apply_chat_template(conversation, chat_template, **kwargs)
        template = chat_template or self.chat_template
        if not template:
            raise InputError("this processor has no chat template; pass chat_template=…")
        conversations = [conversation] if not conversation or isinstance(conversation[0], dict) else list(conversation)
        want_dict, want_mask = kwargs.pop("return_dict", False), kwargs.pop("return_assistant_tokens_mask", False)
        render = {
            name: kwargs[name] for name in ("add_generation_prompt", "continue_final_message") if kwargs.get(name)
        }
        chats = [tokenize_chat(self.tokenizer, messages, template, **render) for messages in conversations]
        batch = self._batch(chats, [self._media_of(messages) for messages in conversations], mask=want_mask)
        return batch if want_dict else batch["input_ids"]

    def tokenize_conversations(self, conversations: list[Messages], **render: Any) -> BatchFeature:
        """Tokenize conversations as `apply_chat_template` does, without their pixels: those are encoded apart."""
        return self._tensors(
            [
                self._expand(
                    tokenize_chat(self.tokenizer, messages, str(self.chat_template), **render),
                    self._media_of(messages),
                )
                for messages in conversations
            ]
        )

    def prepare_conversation(
        self, messages: Messages, *, template: str | None = None, tokens_per_frame: int | None = None
    ) -> tuple[ChatTokens, Tensor | None]:
        """Tokenize one conversation and prepare the frames of its media: `(F, P, 3, H, W)`, None without media.

        Args:
            template: a chat template in place of the processor's own.
            tokens_per_frame: how often a placeholder stands for each frame; the processor's own number if left out.
        """
        media = self._media_of(messages)
        chat = tokenize_chat(self.tokenizer, messages, template or str(self.chat_template))
        frames = [frame for item in media for frame in frames_of(item)]
        return self._expand(chat, media, tokens_per_frame), self.prepare_frames(frames) if frames else None

    def _media_of(self, messages: Messages) -> list[Media]:
        """Load the pictures and videos of a conversation, in the order in which they stand."""
        media: list[Media] = []
        for message in messages:
            if isinstance(message.get("content"), list):
                for part in message["content"]:
                    if part.get("type") in ("image", "video"):
                        source = next((part[key] for key in MEDIA_KEYS if key in part), None)
                        if source is None:
                            raise InputError(f"a {part['type']} part names no file; add 'path' or '{part['type']}'")
                        media.append(_picture(source) if part["type"] == "image" else self._video(source))
        return media

    def _video(self, source: Any) -> Video:
        if isinstance(source, Video):
            return source
        if isinstance(source, list | tuple) or (isinstance(source, np.ndarray) and source.ndim == 4):
            if not len(source):
                raise InputError("a video has no frames; give at least one")
            return Video.of([_picture(frame).image for frame in source])
        loaded = load_media(_source(source), sampling=self.sampling)
        return Video.of([loaded.image], loaded.name) if isinstance(loaded, Picture) else loaded

    def _batch(self, chats: list[ChatTokens], media: list[list[Media]], *, mask: bool = False) -> BatchFeature:
        """Expand placeholders, pad on the left, stack the pixels."""
        data = self._tensors([self._expand(chat, row) for chat, row in zip(chats, media, strict=True)], mask=mask)
        frames = [[frame for item in row for frame in frames_of(item)] for row in media]
        if any(frames):
            pixels = [self.prepare_frames(row) if row else None for row in frames]
            shape = next(p.shape for p in pixels if p is not None)
            data["pixel_values"] = torch.zeros(len(frames), max(map(len, frames)), *shape[1:])
            for index, row_pixels in enumerate(pixels):
                if row_pixels is not None:
                    data["pixel_values"][index, : len(row_pixels)] = row_pixels
        return data

    def _tensors(self, rows: list[ChatTokens], *, mask: bool = False) -> BatchFeature:
        """Pad token rows into `input_ids`, `attention_mask` and `instruction_mask`, each `(B, L)`."""
        longest = max(len(row.ids) for row in rows)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        left = self.tokenizer.padding_side == "left"

        def padded(values: list[Any], fill: int) -> list[int]:
            filling = [fill] * (longest - len(values))
            return filling + [int(v) for v in values] if left else [int(v) for v in values] + filling

        data = {
            "input_ids": torch.tensor([padded(row.ids, pad) for row in rows]),
            "attention_mask": torch.tensor([padded([1] * len(row.ids), 0) for row in rows]),
            "instruction_mask": torch.tensor([padded([not a for a in row.answers], 0) for row in rows]),
        }
        if mask:
            data["assistant_masks"] = torch.tensor([padded(row.answers, 0) for row in rows])
        return BatchFeature(data)

    def _expand(self, chat: ChatTokens, media: list[Media], tokens_per_frame: int | None = None) -> ChatTokens:
        """Repeat each placeholder as often as its medium has vision tokens."""
        each = tokens_per_frame or self.tokens_per_frame
        placeholders = sum(token in (self.image_token_id, self.video_token_id) for token in chat.ids)
        if placeholders != len(media):
            raise InputError(f"the text has {placeholders} places for pictures and videos, but {len(media)} were given")
        ids: list[int] = []
        answers: list[bool] = []
        upcoming = iter(media)
        for token, answer in zip(chat.ids, chat.answers, strict=True):
            repeats = 1
            if token in (self.image_token_id, self.video_token_id):
                repeats = count_frames(next(upcoming)) * each
                token = self.image_token_id
            ids += [token] * repeats
            answers += [answer] * repeats
        return ChatTokens(ids, answers)


def count_frames(item: Media) -> int:
    """Return how many frames a picture or video has."""
    return 1 if isinstance(item, Picture) else len(item)


def frames_of(item: Media) -> Iterator[Image.Image]:
    """Give the frames of a picture or video, decoded as they are asked for."""
    return iter([item.image]) if isinstance(item, Picture) else item.frames()


def side_px(image_processor: Any) -> int:
    """Return the side of the square that the tower reads: CLIP's processors crop to it, SigLIP's resize to it."""
    size = image_processor.crop_size if image_processor.do_center_crop else image_processor.size
    return int(size["height"] if size.get("height") else size["shortest_edge"])


def _picture(source: Any) -> Picture:
    if isinstance(source, Picture):
        return source
    return Picture(open_picture(_source(source)), "picture")


def _source(given: Any) -> Source:
    """Return what `inputs.media` opens; arrays of 8-bit pixels `(H, W, 3)` become pictures."""
    if isinstance(given, np.ndarray):
        try:
            return Image.fromarray(given)
        except (TypeError, ValueError) as error:
            raise InputError(f"an array of {given.dtype} {given.shape} is no picture; give uint8 (H, W, 3)") from error
    if not isinstance(given, str | Path | bytes | Image.Image):
        raise InputError(f"a file, bytes, a Pillow picture or an array must be given, not a {type(given).__name__}")
    return given
