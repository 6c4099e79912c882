"""From a conversation with the bytes of its media to what the language model reads."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llava_mini.assistant import Assistant
from llava_mini.errors import InputError
from llava_mini.inputs.chat import Messages
from llava_mini.inputs.media import Picture, Video, load_media
from llava_mini.inputs.processor import count_frames
from llava_mini.model.dialogue import Dialogue
from llava_mini.serving.requests import ServerLimits, Started, Ticket, TooLongError


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A question that waits for room in the batch."""

    ticket: Ticket
    embeds: Tensor
    """`(L, d)`: what the language model reads."""
    dialogue: Dialogue | None
    """What keeps the first of them; None: they are all read, and none is kept."""
    shown: str
    """What its files show, as `Assistant.begin` says it."""
    started: Started
    most: int
    """Tokens of the answer, at most."""

    @property
    def kept(self) -> int:
        """Tokens that need not be read."""
        return 0 if self.dialogue is None else self.dialogue.kept

    @property
    def nbytes(self) -> int:
        """Bytes that it holds beside the embeddings while it waits."""
        return 0 if self.dialogue is None else self.dialogue.nbytes


class Preparer:
    """Opens, encodes and fuses; threads may share one."""

    def __init__(self, assistant: Assistant, limits: ServerLimits) -> None:
        self.assistant, self.limits = assistant, limits
        context = int(assistant.model.config.text.max_position_embeddings)
        self._most_characters = context * max(len(token) for token in assistant.processor.tokenizer.get_vocab())
        """No text of more characters fits into the context: none is tokenized to find that out."""

    def open_media(self, messages: Messages, check: Callable[[], object] = lambda: None) -> Messages:
        """Open the bytes in a conversation; what a part holds, not what it is called, decides its kind.

        Args:
            check: called before each file; what it raises ends the work.

        Raises:
            MediaError: for a file that is no picture or video, damaged or too large.
            InputError: for too many files, or pictures that are too large together.
            TooLongError: for more text than fits into any context.
        """
        characters = sum(len(part.get("text", "")) for message in messages for part in message["content"])
        if characters > self._most_characters:
            raise TooLongError(
                f"the conversation has {characters:,} characters; more than {self._most_characters:,} never fit into "
                "the model's context"
            )
        count = sum(part["type"] != "text" for message in messages for part in message["content"])
        if count > self.limits.media:
            raise InputError(f"the conversation has {count} pictures and videos; at most {self.limits.media} are taken")
        sampling = self.assistant.processor.sampling
        sampling = dataclasses.replace(sampling, max_frames=min(sampling.max_frames, self.limits.frames))

        pixels = 0

        def opened(part: dict[str, Any]) -> dict[str, Any]:
            nonlocal pixels
            if part["type"] == "text":
                return part
            check()
            media = load_media(part["data"], sampling=sampling, limits=self.limits.file)
            if isinstance(media, Video):
                return {"type": "video", "video": media}
            pixels += media.image.width * media.image.height
            if pixels > self.limits.pixels:
                most = self.limits.pixels
                raise InputError(f"the pictures have together more than {most:,} pixels; send smaller ones")
            return {"type": "image", "image": media}

        return [{**message, "content": [opened(part) for part in message["content"]]} for message in messages]

    @torch.no_grad()
    def prepare(self, ticket: Ticket) -> Prepared:
        """Open the files of a question, encode its pictures and fuse its words.

        Raises:
            LlavaMiniError: when it cannot be answered, or nobody waits for the answer any more.
        """
        ticket.check()
        assistant, config = self.assistant, self.assistant.model.config
        given, ticket.messages = ticket.messages, []  # a client that reads slowly keeps no files here
        messages = self.open_media(given, ticket.check)
        del given
        inputs: Any = assistant.processor.tokenize_conversations([messages], add_generation_prompt=True)
        ids = inputs["input_ids"].to(assistant.model.device)
        length, context = int(ids.shape[1]), int(config.text.max_position_embeddings)
        if length >= context:
            raise TooLongError(
                f"the conversation has {length} tokens, which leaves no room for an answer; it and its "
                f"answer may not have more than the {context} of the model's context"
            )
        asked = ticket.settings.max_tokens or self.limits.default_answer_tokens
        most = min(asked, self.limits.answer_tokens, context - length)  # whoever gets less reads "length" as its end
        media: list[Picture | Video] = [
            part[part["type"]] for message in messages for part in message["content"] if part["type"] != "text"
        ]
        dialogue, shown = assistant.begin(media, ticket.check)
        embeds = dialogue.advance(ids, inputs["instruction_mask"].to(ids.device))["inputs_embeds"]
        seen = int((ids == config.image_token_id).sum())
        started = Started(length, seen, sum(count_frames(item) for item in media))
        keeps = shown and assistant.served is None
        return Prepared(ticket, embeds[0], dialogue if keeps else None, shown, started, most)
