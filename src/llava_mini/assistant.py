"""Files and a question → text: ask once, stream, or chat with pictures that are encoded once.

The seam between people and the model: everything here takes file names and plain words.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import llava_mini.auto  # noqa: F401  (registers the classes with transformers)
from llava_mini.checkpoints.tensors import tensor_files
from llava_mini.devices import find_device, find_dtype
from llava_mini.engines import attach, is_llama_cpp, is_served
from llava_mini.errors import InputError, ModelError
from llava_mini.inputs.ahead import read_ahead
from llava_mini.inputs.chat import Messages
from llava_mini.inputs.media import FrameSampling, Picture, Video, load_media
from llava_mini.inputs.processor import count_frames
from llava_mini.model.chunking import frames_per_chunk, kept_bytes
from llava_mini.model.dialogue import Dialogue, Footage
from llava_mini.model.prefix_cache import PrefixCache
from llava_mini.model.vision_prefix import VisionPrefix
from llava_mini.reply import Answer, Reply, Sampling, Served

File = str | Path | bytes | Image.Image
EMBEDDED = "embedded"
MAX_FILES = 16
KEPT_PICTURES_MB = 256
KEPT_OPENINGS_MB = 128


class Assistant:
    """Answer questions about pictures and videos.

    >>> Assistant.load().ask("What is this?", "cat.jpg").text  # doctest: +SKIP
    'It is a cat.'
    """

    def __init__(
        self, model: Any, processor: Any, name: str = "model", engine: str = "torch", served: Served | None = None
    ) -> None:
        """Join what was loaded.

        Args:
            engine: where the language model runs (`llava_mini.engines`).
            served: the servers that run it, where the model itself does not.
        """
        self.model = model
        self.engine = engine
        self.served = served
        self.processor = processor
        self.name = name
        self.kept: PrefixCache[VisionPrefix] = PrefixCache(KEPT_PICTURES_MB * 2**20)
        """Encoded pictures and short videos, shared by all chats and questions; of another tiling they are others."""
        self.openings: PrefixCache[Dialogue] = PrefixCache(KEPT_OPENINGS_MB * 2**20)
        """The first question of the last chat about some files, or all of the last request, for what begins alike."""

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        hd: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        engine: str = "torch",
    ) -> "Assistant":
        """Load a model.

        Args:
            model: a folder or hub name; None is the embedded model, assembled once into the cache folder.
            hd: cut every picture and frame into 2×2 tiles beside the whole, as the paper's HD model does; a model
                that was trained on tiles always cuts as many as it was trained on.
            device: "cpu", "cuda", "mps", or "auto" for the best there is.
            dtype: "float32", "bfloat16", "float16", or "auto": float32 on a CPU, bfloat16 elsewhere.
            engine: where the language model runs: "torch", "packed", "int8", "llama.cpp", a `.gguf` file, or
                "http://…/v1" for servers of vLLM, with commas between several (`llava_mini.engines`).

        Raises:
            ModelError: when there is no such model, or it is not a LLaVA-Mini.
            InputError: for an unknown device or dtype.
        """
        where = find_device(device)
        precision = find_dtype(dtype, where)
        if model is None:
            from llava_mini.checkpoints.embedded import embedded_folder

            source, name = str(embedded_folder()), EMBEDDED
        else:
            source = name = str(model)
        if not Path(source).exists() and not _may_be_hub_name(source):
            raise ModelError(f"there is no folder {name!r}; give the folder or the hub name of a llava_mini model")
        if (Path(source) / "model" / "config.json").is_file() and not (Path(source) / "config.json").is_file():
            raise ModelError(f"{name} is no model; did you mean {Path(source) / 'model'}?")
        try:
            config = AutoConfig.from_pretrained(source)
            if config.model_type != "llava_mini":
                raise ModelError(f"{name} is a {config.model_type} model; a llava_mini model is needed")
            if config.language_model_elsewhere and not is_served(engine):
                raise ModelError(
                    f"{name} holds no language model; start vLLM with the folder beside it, and give --engine http://…"
                )
            processor = AutoProcessor.from_pretrained(source)
            if Path(source).is_dir():
                tensor_files(Path(source))  # an index may name a pickle, or a file somewhere else
            if model is None and precision == torch.float32:
                from llava_mini.checkpoints.embedded import load_assembled

                loaded, info = load_assembled(Path(source))
            else:
                loaded, info = AutoModelForImageTextToText.from_pretrained(
                    source, dtype=precision, use_safetensors=True, output_loading_info=True
                )
        except ModelError:
            raise
        except Exception as error:  # the readers of damaged files raise OSError, ValueError, SafetensorError, …
            reason = " ".join(str(error).split()) or type(error).__name__
            reason = reason if len(reason) <= 300 else f"{reason[:300]}…"
            raise ModelError(f"no model could be loaded from {name!r}: {reason}") from error
        for problem, what in (("missing_keys", "is missing"), ("unexpected_keys", "is left over")):
            if info[problem]:
                raise ModelError(f"{sorted(info[problem])[0]} {what} in the weights of {name}")
        for field in ("image_token_id", "tokens_per_frame", "tiles"):
            if getattr(processor, field) != getattr(config, field):
                values = f"{getattr(processor, field)} and {getattr(config, field)}"
                raise ModelError(f"{field} of the processor and of the model of {name} differ: {values}")
        if hd and loaded.config.tiles == 1:
            loaded.config.tiles = processor.tiles = 2
        loaded.to(where).eval()
        return cls(loaded, processor, name, engine, attach(loaded, engine))

    @property
    def looks_inside(self) -> bool:
        """Whether the language model tells where it looked: not in llama.cpp, and not on a server."""
        return self.served is None and not is_llama_cpp(self.engine)

    @torch.no_grad()
    def encode(self, item: Picture | Video, on_frames: Callable[[int], object] | None = None) -> VisionPrefix:
        """Encode one picture or video as a row, a few frames at a time; it is kept, by its content.

        Args:
            on_frames: is told how many more frames have been read.
        """
        return self.kept.find(
            self.content(item), lambda: VisionPrefix.joined(list(self.encode_in_chunks([item], on_frames)))
        )

    def content(self, item: Picture | Video) -> str:
        """Name what an item shows, as this model cuts it."""
        return f"{item.content} {self.processor.tiles}"

    def encode_in_chunks(
        self, media: Sequence[Picture | Video], on_frames: Callable[[int], object] | None = None
    ) -> Iterator[VisionPrefix]:
        """Encode all frames in chunks, while those of the next are decoded."""
        size = frames_per_chunk(self.model.config, self.model.dtype)
        with closing(read_ahead(self.processor.prepare_in_chunks(media, size))) as chunks:
            for pixels in chunks:
                yield self.model.encode_images(pixels[None].to(self.model.device))
                if on_frames is not None:
                    on_frames(len(pixels))

    def see(
        self, media: Sequence[Picture | Video], on_frames: Callable[[int], object] | None = None
    ) -> VisionPrefix | Footage | None:
        """Encode the media of a conversation if all can be kept; of what cannot, return a way to read it anew."""
        if not media:
            return None
        config = self.model.config
        frames = sum(count_frames(item) for item in media)
        short = frames * kept_bytes(config, self.model.dtype) <= config.frame_memory_mb * 2**20
        if short or all(isinstance(item, Picture) for item in media):
            return VisionPrefix.joined([self.encode(item, on_frames) for item in media])
        return lambda: self.encode_in_chunks(media, on_frames)

    def begin(
        self, media: Sequence[Picture | Video], on_frames: Callable[[int], object] | None = None
    ) -> tuple[Dialogue, str]:
        """Begin as an earlier conversation about the same files did, or anew.

        Returns:
            What is kept between turns, and what the files show, under which `openings` keep words about them; empty
            where the files are too long for that.
        """
        vision = self.see(media, on_frames)
        shown = "" if callable(vision) else " ".join(map(self.content, media)) or "text"
        kept = self.openings.get(shown) if shown else None
        return Dialogue(self.model, vision) if kept is None else kept.opening(kept.kept), shown

    def ask(
        self,
        question: str,
        *files: File,
        sampling: Sampling | None = None,
        frames: FrameSampling | None = None,
        attention: bool = False,
    ) -> Answer:
        """Answer one question about some files, or about none.

        Args:
            sampling: how tokens are chosen.
            frames: which frames of videos are looked at.
            attention: say how much the answer attended to each frame of the videos (`Answer.frames`).
        """
        return self.chat(*files, frames=frames).ask(question, sampling=sampling, attention=attention)

    def stream(
        self,
        question: str,
        *files: File,
        sampling: Sampling | None = None,
        frames: FrameSampling | None = None,
        attention: bool = False,
    ) -> Reply:
        """Answer word by word: iterate over the reply, then read its `answer`."""
        return self.chat(*files, frames=frames).stream(question, sampling=sampling, attention=attention)

    def chat(
        self, *files: File, frames: FrameSampling | None = None, on_frames: Callable[[int], object] | None = None
    ) -> "Chat":
        """Open a conversation about some files.

        Args:
            frames: which frames of videos are looked at; by default as the processor says.
            on_frames: is told how many more frames have been read.
        """
        return Chat(self, files, frames, on_frames)


class Chat:
    """A conversation of several turns.

    Pictures are encoded with the first question and kept. A video that is too long to be kept in the model's
    `frame_memory_mb` is read anew for each question, in chunks, while the next chunk is decoded.
    """

    def __init__(
        self,
        assistant: Assistant,
        files: Sequence[File],
        frames: FrameSampling | None = None,
        on_frames: Callable[[int], object] | None = None,
    ) -> None:
        if len(files) > MAX_FILES:
            raise InputError(f"{len(files)} files were given; at most {MAX_FILES} are taken at once")
        for file in files:
            if not isinstance(file, str | Path | bytes | Image.Image):
                kind = type(file).__name__
                raise InputError(f"a file, its bytes or a Pillow picture must be given, not a {kind}")
        self._assistant = assistant
        self._opened = time.perf_counter()
        processor = assistant.processor
        self.media: list[Picture | Video] = [load_media(file, sampling=frames or processor.sampling) for file in files]
        self.messages: Messages = []
        self._dialogue: Dialogue | None = None
        self._shown = ""
        """What the files show, as a name for what is kept of a first question; empty where nothing is."""
        self._busy = threading.Lock()
        self._on_frames = on_frames

    @property
    def frame_count(self) -> int:
        """How many pictures and frames there are."""
        return sum(count_frames(item) for item in self.media)

    def ask(self, question: str, *, sampling: Sampling | None = None, attention: bool = False) -> Answer:
        """Answer the next question; earlier questions and answers are remembered."""
        reply = self.stream(question, sampling=sampling, attention=attention)
        for _ in reply:
            pass
        return reply.answer

    def stream(self, question: str, *, sampling: Sampling | None = None, attention: bool = False) -> Reply:
        """Answer the next question word by word.

        Args:
            sampling: how tokens are chosen.
            attention: say how much the answer attended to each frame of the videos (`Answer.frames`).

        Raises:
            InputError: when the question is empty, or the conversation is longer than the model's context.
        """
        sampling = sampling or Sampling()
        if attention and not self._assistant.looks_inside:
            engine = "llama.cpp" if self._assistant.served is None else "vLLM"
            raise InputError(f"{engine} does not say where it looked; leave the engine out to see moments")
        if not question.strip():
            raise InputError("the question is empty; type what you want to know")
        started, self._opened = self._opened if not self.messages else time.perf_counter(), time.perf_counter()
        messages = [*self.messages, {"role": "user", "content": self._content(question)}]
        inputs = self._inputs(messages, sampling.max_new_tokens)

        assert self._dialogue is not None
        dialogue, asked = self._dialogue, int(inputs["input_ids"].shape[1])

        def remember(text: str) -> None:
            if len(messages) == 1 and self._shown:
                self._assistant.openings.put(self._shown, dialogue.opening(asked))
            self.messages = [*messages, {"role": "assistant", "content": text}]

        return Reply(
            self._assistant.model,
            self._assistant.processor.tokenizer,
            self._dialogue,
            inputs,
            sampling,
            model_name=self._assistant.name,
            started=started,
            on_end=remember,
            busy=self._busy,
            moments=self._moments() if attention else (),
            served=self._assistant.served,
        )

    def _moments(self) -> list[tuple[str, float] | None]:
        """Name each frame by its file and time, None for pictures."""
        return [
            moment
            for item in self.media
            for moment in ([None] if isinstance(item, Picture) else [(item.name, time_s) for time_s in item.times_s])
        ]

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
            raise InputError(self._too_long(length, max_new_tokens, context))
        if self._dialogue is None:
            self._dialogue, self._shown = assistant.begin(self.media, self._on_frames)
        return {name: value.to(model.device) for name, value in inputs.items()}

    def _too_long(self, length: int, max_new_tokens: int, context: int) -> str:
        """Say what would fit."""
        each = self._assistant.model.config.tokens_per_frame
        fitting = max(0, (context - max_new_tokens - (length - self.frame_count * each)) // each)
        videos = [item for item in self.media if isinstance(item, Video)]
        most = f"{fitting} frames" if fitting else f"{max(0, context - max_new_tokens)} tokens"
        pictures = len(self.media) - len(videos)
        share = (fitting - pictures) // len(videos) if videos else 0
        advice = f"; set max_frames (--max-frames) to {share} or less" if share > 0 else ""
        return (
            f"the conversation has {length} tokens ({self.frame_count} pictures or frames); with an answer of "
            f"{max_new_tokens} the model's context of {context} takes at most {most}{advice}"
        )


def _may_be_hub_name(name: str) -> bool:
    """Tell whether a name may be of the hub: "name", or "owner/name" where no folder is called as the owner."""
    owner, _, rest = name.rpartition("/")
    return bool(rest) and not name.startswith((".", "~")) and "/" not in owner and not (owner and Path(owner).is_dir())
