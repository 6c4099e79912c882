"""Answer a benchmark's questions in batches; every answer is written as it comes, and never asked for again.

Each question is asked with its own picture and, as controls, with another question's and with a grey one. The questions
go round in a ring of pictures, and the next picture is the other one: so each is encoded once for both.
"""

import hashlib
import json
import random
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from tqdm import tqdm

from llava_mini.assistant import Assistant
from llava_mini.errors import ConfigError, InputError, MediaError
from llava_mini.evaluation.asking import answer, blank, film_length
from llava_mini.evaluation.samples import Answered, Sample, in_units
from llava_mini.inputs.files import shown_name
from llava_mini.inputs.media import FrameSampling, Video, load_media
from llava_mini.inputs.processor import Media, count_frames
from llava_mini.lines import mend, read_whole_lines
from llava_mini.model.chunking import kept_bytes
from llava_mini.model.vision_prefix import VisionPrefix

FRAMES_A_SECOND = 3.0
"""Of a folder of frames, as MVBench publishes the videos of TVQA."""
_KEPT_BYTES = 2 * 2**30
"""Of encoded pictures that are kept for questions nearby."""
_BATCH_BYTES = 2**30
"""Of what a batch's frames keep for pre-fusion; a longer video is asked about alone."""
_PICTURES = (".jpg", ".jpeg", ".png")
SHOWN = ("answer", "shuffled", "blank")
"""The answers of a line: with the question's own picture, with another's, with a grey one."""


@dataclass(frozen=True)
class Asking:
    """How questions are asked."""

    frames: FrameSampling
    """Which frames of videos are looked at."""
    max_new_tokens: int = 0
    """Longest answer; 0: as long as the benchmark says."""
    batch_size: int = 16
    controls: bool = True
    """Whether shuffled and blank pictures are asked about too."""

    def of(self, max_new_tokens: int) -> "Asking":
        """Return the same for a benchmark whose answers are so long."""
        return replace(self, max_new_tokens=self.max_new_tokens or max_new_tokens)


def draw(samples: Sequence[Sample], limit: int | None, seed: int = 0) -> list[Sample]:
    """Return about `limit` questions, drawn with a fixed seed, whole units, in their order."""
    units = in_units([Answered(sample, "") for sample in samples])
    order = list(range(len(units)))
    if limit is not None and limit < len(samples):
        random.Random(seed).shuffle(order)
        kept: list[int] = []
        count = 0
        for place in order:
            if count >= limit:
                break
            kept.append(place)
            count += len(units[place])
        order = sorted(kept)
    return [one.sample for place in order for one in units[place]]


class Written(NamedTuple):
    """Lines of answers by id."""

    answers: dict[str, dict[str, Any]]
    failures: dict[str, dict[str, Any]]
    """Of questions that could not be asked, and have not been answered since."""


def read_answers(folder: Path, samples: Sequence[Sample]) -> Written:
    """Return the lines that were written about questions that are still asked in the same words.

    Of several lines about one question that counts which was asked in more ways, then the later one of a file.
    """
    asked = {sample.id: sample.question for sample in samples}
    answers: dict[str, dict[str, Any]] = {}
    failures: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("answers-*.jsonl")):
        for row in read_whole_lines(path):
            id_ = row.get("id")
            if not isinstance(id_, str) or row.get("question") != asked.get(id_):
                continue
            texts = [row[name] for name in SHOWN if row.get(name) is not None]
            if "error" in row:
                failures[id_] = row
            elif isinstance(row.get("answer"), str) and all(isinstance(text, str) for text in texts):
                before = answers.get(id_, {})
                if len(texts) >= sum(before.get(name) is not None for name in SHOWN):
                    answers[id_] = row
    return Written(answers, {id_: row for id_, row in failures.items() if id_ not in answers})


def begin(folder: Path, assistant: Assistant, asking: Asking) -> None:
    """Make the folder of answers; refuse one that holds those of another model or another way of asking.

    Raises:
        ConfigError: with the value that differs.
    """
    about = {
        "model": assistant.name,
        "weights": fingerprint(assistant),
        "dtype": str(assistant.model.dtype).removeprefix("torch."),
        "engine": Path(assistant.engine).name,
        "max_new_tokens": asking.max_new_tokens,
        "fps": asking.frames.fps,
        "max_frames": asking.frames.max_frames,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "about.json"
    if path.is_file():
        try:
            before = {"engine": "torch"} | dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise ConfigError(
                f"{path} cannot be read, so whose answers lie beside it is unknown; give another --out"
            ) from None
        for name, value in about.items():
            if before.get(name) != value and name != "model":
                raise ConfigError(
                    f"{folder} holds answers with {name} {before.get(name)}, now it is {value}; give another --out"
                )
    elif any(folder.glob("answers-*.jsonl")):
        raise ConfigError(
            f"{folder} holds answers without {path.name}, so whose they are is unknown; give another --out"
        )
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(about, indent=1), encoding="utf-8")
    partial.rename(path)


def fingerprint(assistant: Assistant) -> str:
    """Name a model's weights by some values of each tensor: trained anew, it is another."""
    digest = hashlib.sha256()
    for name, tensor in sorted(assistant.model.state_dict().items()):
        some = tensor.detach().flatten()[:: max(1, tensor.numel() // 64)].float().cpu()
        digest.update(name.encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


def answer_all(
    assistant: Assistant,
    samples: Sequence[Sample],
    folder: Path,
    asking: Asking,
    *,
    title: str,
    done: dict[str, dict[str, Any]],
    process: int = 0,
    processes: int = 1,
) -> int:
    """Answer what is not answered yet, this process's part of it, into `answers-<process>.jsonl`.

    A picture that cannot be opened costs its own questions: their lines tell the error.

    Args:
        done: what `read_answers` found, before any process has begun to write.

    Returns:
        How many pictures or questions could not be used.
    """
    ring = _ring(samples)
    places = {key: place for place, key in enumerate(ring)}
    controls = ("shuffled", "blank") if len(ring) > 1 else ("blank",)  # of one picture there is no other
    wanted = ("answer", *(controls if asking.controls else ()))
    left = [sample for sample in samples if not _is_whole(done.get(sample.id), wanted)]
    left.sort(key=lambda sample: places[_key(sample)])
    share = left[len(left) * process // processes : len(left) * (process + 1) // processes]
    by_key = {_key(sample): sample for sample in samples}
    shelf = _Shelf(assistant, asking.frames, [by_key[key] for key in ring])
    path = folder / f"answers-{process}.jsonl"
    mend(path)
    failed = 0
    bar = tqdm(total=len(share), desc=title, unit="question", mininterval=2.0, disable=process > 0 or not share)
    with path.open("a", encoding="utf-8") as lines, bar:
        for batch in _batches(share, shelf, asking.batch_size):
            for row in _answered(assistant, batch, shelf, asking, wanted):
                failed += "error" in row
                lines.write(json.dumps(row) + "\n")
            lines.flush()
            bar.update(len(batch))
    return failed


def _answered(
    assistant: Assistant, batch: Sequence[Sample], shelf: "_Shelf", asking: Asking, wanted: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Ask a batch, once for each way that it is shown; where one question cannot be asked, each alone."""
    rows: list[dict[str, Any]] = [{"id": sample.id, "question": sample.question} for sample in batch]
    for name in wanted:
        try:
            texts = _texts(assistant, batch, shelf, asking, name)
        except (MediaError, InputError) as error:
            if len(batch) > 1:
                for sample in batch:
                    yield from _answered(assistant, [sample], shelf, asking, wanted)
                return
            if name == "answer":
                yield {**rows[0], "answer": "", "error": str(error)}
                return
            texts = [None]  # a control that could not be shown is not tried again
        for row, text in zip(rows, texts, strict=True):
            row[name] = text
    yield from rows


def _texts(
    assistant: Assistant, batch: Sequence[Sample], shelf: "_Shelf", asking: Asking, name: str
) -> Sequence[str | None]:
    """Ask a batch in one way; of questions that are alike, as the ways to ask in some sets are, one is asked."""
    keys = [(_key(sample), sample.question) for sample in batch]
    first = [keys.index(key) for key in keys]
    asked = sorted(set(first))
    shown = [shelf.shown(batch[row], name) for row in asked]
    said = answer(assistant, [batch[row].question for row in asked], shown, shelf.prefix(shown), asking.max_new_tokens)
    by_row = dict(zip(asked, said, strict=True))
    return [by_row[row] for row in first]


class _Shelf:
    """Pictures and videos as they were opened and encoded: the last ones used."""

    def __init__(self, assistant: Assistant, frames: FrameSampling, ring: Sequence[Sample]) -> None:
        self._assistant, self._frames, self._ring = assistant, frames, ring
        self._place = {_key(sample): place for place, sample in enumerate(ring)}
        config = assistant.model.config
        self.frame_bytes = kept_bytes(config, assistant.model.dtype)
        self._media: OrderedDict[str, Media] = OrderedDict()
        self._grey: dict[int, Media] = {}
        self._encoded: OrderedDict[int, tuple[Media, VisionPrefix]] = OrderedDict()

    def shown(self, sample: Sample, name: str) -> Media:
        """Return what stands before the question in one of `SHOWN`; shuffled is the next of the ring that opens."""
        if name != "shuffled":
            own = self.opened(sample)
            return own if name == "answer" else self._grey.setdefault(film_length(own), blank(film_length(own)))
        place = self._place[_key(sample)]
        for step in range(1, len(self._ring)):
            try:
                return self.opened(self._ring[(place + step) % len(self._ring)])
            except MediaError:
                continue
        raise MediaError("no other picture or video can be opened")

    def opened(self, sample: Sample) -> Media:
        """Open a sample's picture or video, once while it is near."""
        key = _key(sample)
        if key not in self._media:
            self._media[key] = open_source(sample, self._frames)
            if len(self._media) > 256:
                self._media.popitem(last=False)
        self._media.move_to_end(key)
        return self._media[key]

    def prefix(self, shown: Sequence[Media]) -> VisionPrefix:
        """Return a row for each that is shown; what is shown twice is kept once until then."""
        different = list({id(item): item for item in shown}.values())
        encoded = [self.encoded(item) for item in different]
        if len(shown) == 1:
            return encoded[0]
        places = {id(item): place for place, item in enumerate(different)}
        return VisionPrefix.concatenate(encoded).select(torch.tensor([places[id(item)] for item in shown]))

    def encoded(self, item: Media) -> VisionPrefix:
        """Encode what was opened, once while it is near."""
        key = id(item)  # the item is kept beside what it became, so its place in memory is its own
        if key not in self._encoded:
            self._encoded[key] = (item, self._assistant.encode(item))
            while len(self._encoded) > 1 and sum(one.nbytes for _, one in self._encoded.values()) > _KEPT_BYTES:
                self._encoded.popitem(last=False)
        self._encoded.move_to_end(key)
        return self._encoded[key][1]


def _batches(samples: Sequence[Sample], shelf: _Shelf, size: int) -> Iterator[list[Sample]]:
    """Gather batches of at most `size` questions, and of no more frames than `_BATCH_BYTES` takes."""
    batch: list[Sample] = []
    frames = 0
    for sample in samples:
        try:
            more = count_frames(shelf.opened(sample))
        except MediaError:
            more = 1  # it is told of when it is asked
        if batch and (len(batch) == size or (frames + more) * shelf.frame_bytes > _BATCH_BYTES):
            yield batch
            batch, frames = [], 0
        batch.append(sample)
        frames += more
    if batch:
        yield batch


def open_source(sample: Sample, frames: FrameSampling) -> Media:
    """Open what a sample is about: a file, bytes, a stretch of a video, or a folder of frames."""
    start, end = sample.clip_s or (frames.start_s, frames.end_s)
    sampling = FrameSampling(frames.fps, frames.max_frames, start, end)
    if isinstance(sample.source, Path) and sample.source.is_dir():
        return _film_of_folder(sample.source, sampling)
    return load_media(sample.source, sampling=sampling)


def _film_of_folder(folder: Path, sampling: FrameSampling) -> Video:
    """Choose frames of a folder as `open_video` does of a file."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
    name = shown_name(folder)
    if not paths:
        raise MediaError(f"{name} holds no frame; give a folder of .jpg or .png")
    whole_s = len(paths) / FRAMES_A_SECOND
    start, end = sampling.start_s or 0.0, min(whole_s, sampling.end_s or whole_s)
    if not 0 <= start < end:
        raise MediaError(f"the stretch from {start:g} s to {end:g} s must lie in {name}, which lasts {whole_s:.2f} s")
    count = int(max(1, min(sampling.max_frames or len(paths), (end - start) * sampling.fps + 0.5)))
    moments = [start + (end - start) * (place + 0.5) / count for place in range(count)]
    chosen = [paths[min(len(paths) - 1, int(moment * FRAMES_A_SECOND))] for moment in moments]
    pictures: list[Image.Image] = []
    for path in chosen:
        opened = load_media(path)
        if isinstance(opened, Video):
            raise MediaError(f"{shown_name(path)} moves; a frame must be a still picture")
        pictures.append(opened.image)
    return Video.of(pictures, name)


def _ring(samples: Sequence[Sample], seed: int = 0) -> list[str]:
    """Return the pictures of these questions, shuffled."""
    keys = list(dict.fromkeys(_key(sample) for sample in samples))
    random.Random(seed).shuffle(keys)
    return keys


def _key(sample: Sample) -> str:
    """Name what a question is about: its file and stretch, or its content."""
    source = sample.source
    name = hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else str(source)
    return name if sample.clip_s is None else f"{name} {sample.clip_s}"


def _is_whole(row: dict[str, Any] | None, wanted: Sequence[str]) -> bool:
    return row is not None and all(name in row for name in wanted)
