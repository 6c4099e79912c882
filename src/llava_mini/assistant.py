"""Files and a question → text: ask once, stream, or chat with pictures that are encoded once.

The seam between people and the model: everything here takes file names and plain words.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import llava_mini.auto  # noqa: F401  (registers the classes with transformers)
from llava_mini.errors import InputError, ModelError
from llava_mini.inputs.chat import Messages
from llava_mini.inputs.media import Picture, Video, load_media
from llava_mini.model.dialogue import Dialogue
from llava_mini.reply import Answer, Reply, Sampling

File = str | Path | bytes | Image.Image
EMBEDDED = "embedded"
MAX_FILES = 16


class Assistant:
    """Answer questions about pictures and videos.

    >>> Assistant.load().ask("What is this?", "cat.jpg").text  # doctest: +SKIP
    'It is a cat.'
    """

    def __init__(self, model: Any, processor: Any, name: str = "model") -> None:
        self.model = model
        self.processor = processor
        self.name = name

    @classmethod
    def load(cls, model: str | Path | None = None, *, device: str = "auto", dtype: str = "auto") -> "Assistant":
        """Load a model.

        Args:
            model: a folder or hub name; None is the embedded model, assembled once into the cache folder.
            device: "cpu", "cuda", "mps", or "auto" for the best there is.
            dtype: "float32", "bfloat16", "float16", or "auto": float32 on a CPU, bfloat16 elsewhere.

        Raises:
            ModelError: when there is no such model, or it is not a LLaVA-Mini.
            InputError: for an unknown device or dtype.
        """
        where = _device(device)
        precision = _dtype(dtype, where)
        if model is None:
            from llava_mini.checkpoints.embedded import embedded_folder

            source, name = str(embedded_folder()), EMBEDDED
        else:
            source = name = str(model)
        try:
            config = AutoConfig.from_pretrained(source)
            if config.model_type != "llava_mini":
                raise ModelError(f"{name} is a {config.model_type} model; a llava_mini model is needed")
            processor = AutoProcessor.from_pretrained(source)
            loaded = AutoModelForImageTextToText.from_pretrained(source, dtype=precision, use_safetensors=True)
        except ModelError:
            raise
        except Exception as error:  # the readers of damaged files raise OSError, ValueError, SafetensorError, …
            reason = " ".join(str(error).split()) or type(error).__name__
            reason = reason if len(reason) <= 300 else f"{reason[:300]}…"
            raise ModelError(f"no model could be loaded from {name!r}: {reason}") from error
        return cls(loaded.to(where).eval(), processor, name)

    def ask(self, question: str, *files: File, sampling: Sampling | None = None) -> Answer:
        """Answer one question about some files, or about none."""
        return self.chat(*files).ask(question, sampling=sampling)

    def stream(self, question: str, *files: File, sampling: Sampling | None = None) -> Reply:
        """Answer word by word: iterate over the reply, then read its `answer`."""
        return self.chat(*files).stream(question, sampling=sampling)

    def chat(self, *files: File) -> "Chat":
        """Open a conversation about some files; they are read now and encoded once."""
        return Chat(self, files)


class Chat:
    """A conversation of several turns; pictures are encoded with the first question and kept."""

    def __init__(self, assistant: Assistant, files: Sequence[File]) -> None:
        if len(files) > MAX_FILES:
            raise InputError(f"{len(files)} files were given; at most {MAX_FILES} are taken at once")
        self._assistant = assistant
        self._opened = time.perf_counter()
        processor = assistant.processor
        self.media: list[Picture | Video] = [
            load_media(file, fps=processor.fps, max_frames=processor.max_frames) for file in files
        ]
        self.messages: Messages = []
        self._dialogue: Dialogue | None = None

    @property
    def frames(self) -> list[Image.Image]:
        """All pictures and frames, in order."""
        return [f for item in self.media for f in ([item.image] if isinstance(item, Picture) else item.images)]

    def ask(self, question: str, *, sampling: Sampling | None = None) -> Answer:
        """Answer the next question; earlier questions and answers are remembered."""
        reply = self.stream(question, sampling=sampling)
        for _ in reply:
            pass
        return reply.answer

    def stream(self, question: str, *, sampling: Sampling | None = None) -> Reply:
        """Answer the next question word by word.

        Raises:
            InputError: when the question is empty, or the conversation is longer than the model's context.
        """
        sampling = sampling or Sampling()
        if not question.strip():
            raise InputError("the question is empty; type what you want to know")
        started, self._opened = self._opened if not self.messages else time.perf_counter(), time.perf_counter()
        messages = [*self.messages, {"role": "user", "content": self._content(question)}]
        inputs = self._inputs(messages, sampling.max_new_tokens)

        def remember(text: str) -> None:
            self.messages = [*messages, {"role": "assistant", "content": text}]

        assert self._dialogue is not None
        return Reply(
            self._assistant.model,
            self._assistant.processor.tokenizer,
            self._dialogue,
            inputs,
            sampling,
            model_name=self._assistant.name,
            started=started,
            on_end=remember,
        )

    def _content(self, question: str) -> list[dict[str, Any]]:
        first = not self.messages
        media = [
            {"type": "image", "image": item} if isinstance(item, Picture) else {"type": "video", "video": item}
            for item in (self.media if first else [])
        ]
        return [*media, {"type": "text", "text": question.strip()}]

    @torch.no_grad()
    def _inputs(self, messages: Messages, max_new_tokens: int) -> dict[str, Any]:
        """Tokenize the conversation and check its length; the pictures are encoded on the first call only."""
        assistant = self._assistant
        model = assistant.model
        inputs = dict(assistant.processor.tokenize_conversations([messages], add_generation_prompt=True))
        length = int(inputs["input_ids"].shape[1])
        context = model.config.text.max_position_embeddings
        if length + max_new_tokens > context:
            vision = len(self.frames) * model.config.tokens_per_frame
            fitting = max(0, (context - max_new_tokens - (length - vision)) // model.config.tokens_per_frame)
            most = f"{fitting} frames" if fitting else f"{max(0, context - max_new_tokens)} tokens"
            raise InputError(
                f"the conversation has {length} tokens ({len(self.frames)} pictures or frames); with an answer of "
                f"{max_new_tokens} the model's context of {context} takes at most {most}"
            )
        if self._dialogue is None:
            pixels = assistant.processor.prepare_frames(self.frames)[None].to(model.device) if self.media else None
            self._dialogue = Dialogue(model, None if pixels is None else model.encode_images(pixels))
        return {name: value.to(model.device) for name, value in inputs.items()}


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here; try 'cpu' or 'auto'") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise InputError(f"dtype {name!r} is unknown; use one of {', '.join(known)} or 'auto'")
    return known[name]
