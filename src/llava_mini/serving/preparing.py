"""From a conversation with the bytes of its media to what the language model reads."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from llava_mini.assistant import Assistant
from llava_mini.errors import InputError
from llava_mini.inputs.chat import Messages
from llava_mini.inputs.media import Picture, Video, load_media
from llava_mini.inputs.processor import count_frames
from llava_mini.serving.requests import ServerLimits, Started, Ticket, TooLongError


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A question that waits for room in the batch."""

    ticket: Ticket
    embeds: Tensor
    """`(L, d)`: what the language model reads."""
    started: Started
    most: int
    """Tokens of the answer, at most."""


class Preparer:
    """Opens, encodes and fuses; threads may share one."""

    def __init__(self, assistant: Assistant, limits: ServerLimits) -> None:
        self.assistant, self.limits = assistant, limits

    def open_media(self, messages: Messages) -> Messages:
        """Open the bytes in a conversation; what a part holds, not what it is called, decides its kind.

        Raises:
            MediaError: for a file that is no picture or video, damaged or too large.
            InputError: for too many files.
        """
        count = sum(part["type"] != "text" for message in messages for part in message["content"])
        if count > self.limits.media:
            raise InputError(f"the conversation has {count} pictures and videos; at most {self.limits.media} are taken")
        sampling = self.assistant.processor.sampling
        sampling = dataclasses.replace(sampling, max_frames=min(sampling.max_frames, self.limits.frames))

        def opened(part: dict[str, Any]) -> dict[str, Any]:
            if part["type"] == "text":
                return part
            media = load_media(part["data"], sampling=sampling, limits=self.limits.file)
            kind = "image" if isinstance(media, Picture) else "video"
            return {"type": kind, kind: media}

        return [{**message, "content": [opened(part) for part in message["content"]]} for message in messages]

    @torch.no_grad()
    def prepare(self, ticket: Ticket) -> Prepared:
        """Open the files of a question, encode its pictures and fuse its words.

        Raises:
            LlavaMiniError: when it cannot be answered, or nobody waits for the answer any more.
        """
        ticket.check()
        assistant, config = self.assistant, self.assistant.model.config
        messages = self.open_media(ticket.messages)
        inputs: Any = assistant.processor.tokenize_conversations([messages], add_generation_prompt=True)
        ids = inputs["input_ids"].to(assistant.model.device)
        length, context = int(ids.shape[1]), int(config.text.max_position_embeddings)
        most = ticket.settings.max_tokens or min(self.limits.default_answer_tokens, max(1, context - length))
        if most > self.limits.answer_tokens:
            raise InputError(f"max_tokens is {most}; at most {self.limits.answer_tokens} are made")
        if length + most > context:
            raise TooLongError(
                f"the conversation has {length} tokens; with an answer of {most} that is more than the {context} "
                "of the model's context"
            )
        media: list[Picture | Video] = [
            part[part["type"]] for message in messages for part in message["content"] if part["type"] != "text"
        ]
        vision = assistant.see(media, ticket.check)
        embeds = assistant.model.model.embed(
            ids,
            vision() if callable(vision) else vision,
            instruction_mask=None if config.fuse_history else inputs["instruction_mask"].to(ids.device),
        )
        seen = int((ids == config.image_token_id).sum())
        started = Started(length, seen, sum(count_frames(item) for item in media))
        return Prepared(ticket, embeds[0], started, most)
