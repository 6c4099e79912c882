"""Read a video container with PyAV: first the times of its packets, then only the packets that are needed.

A frame needs all packets from its keyframe on; what lies between the last frame that is wanted of a group and the next
keyframe is not decoded. The file is opened from memory or from an open file, by the one demuxer that its first bytes
ask for and with no protocol allowed: a playlist, or a reference inside a file, leads nowhere.
"""

import math
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image

from llava_mini.errors import MediaError
from llava_mini.inputs.files import (
    WANTED,
    Container,
    Deadline,
    MediaLimits,
    TimedFrame,
    check_duration,
    check_pixels,
    opened,
    shrunk,
)

_NOTHING_ELSE = {"protocol_whitelist": "none", "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"}


class _Run(NamedTuple):
    """Packets that are decoded in one go, from a keyframe on, and the frames that are wanted of them."""

    first: int
    last: int
    ticks: list[int]


class Film:
    """The first film of a container. Its packets are timed first, as a header may miss or lie, and decoded later."""

    def __init__(
        self, source: str | Path | bytes, name: str, container: Container, limits: MediaLimits, *, seek: bool | None
    ) -> None:
        self.source, self.name, self.container, self.limits = source, name, container, limits
        self.deadline = Deadline(name, limits)
        self.damaged_packets = 0
        ticks, shown_for, flags = array("q"), array("q"), bytearray()
        with _Reader(self) as reader:
            self._tick_s = reader.tick_s
            while (packet := reader.next()) is not None:
                tick = _tick(packet)
                ticks.append(0 if tick is None else tick)
                shown_for.append(packet.duration or 0)
                flags.append(packet.is_keyframe | (tick is not None and not packet.is_discard) << 1)
                if len(ticks) > limits.max_packets:
                    raise MediaError(f"{name} has more than {limits.max_packets:,} packets; cut it first")
        self._ticks, marks = np.array(ticks), np.array(flags, dtype=np.uint8)
        self._keys, shown = np.flatnonzero(marks & 1), np.flatnonzero(marks & 2)
        if not len(shown):
            raise MediaError(f"{name} holds no frame; it may be truncated or damaged")
        unique, where = np.unique(self._ticks[shown], return_index=True)  # of two frames at one time, the first
        self._places = shown[where]
        """The packet of each frame, in order of appearance."""
        self._first_tick = int(unique[0])
        self.times_s = (unique - unique[0]) * self._tick_s
        """When each frame appears, counted from the first."""
        self.duration_s = self._measure(np.array(shown_for)[self._places[-1]] * self._tick_s)
        check_duration(self.duration_s, name, limits)
        self.seek_over = 0.0 if seek else len(ticks) / max(1, len(self._keys))
        """Packets that must lie between two runs for a jump over them: the keyframe distance."""
        if seek is False or len(np.unique(self._ticks)) < len(ticks):  # a time that is not unique names no packet
            self.seek_over = math.inf

    def read(self, chosen: NDArray[np.int64]) -> Iterator[TimedFrame]:
        """Decode the frames of the given rising numbers; where one is broken, the nearest of its run stands for it."""
        self.damaged_packets = 0
        early, last = 0, None
        with _Reader(self) as reader:
            for run in self._runs(self._places[chosen].tolist()):
                given = 0
                for frame in _nearest(self._decoded(reader, run), run.ticks):
                    last = TimedFrame((int(frame.pts) - self._first_tick) * self._tick_s, self._image(frame))
                    with self.deadline.paused():
                        yield from [last] * (early + 1)
                    given, early = given + 1, 0
                missing = len(run.ticks) - given
                if last is None:
                    early += missing
                else:
                    with self.deadline.paused():
                        yield from [last] * missing
        if last is None:
            raise MediaError(f"{self.name} holds no frame that can be decoded; it may be truncated or damaged")

    def tick_of(self, place: int) -> int:
        """Return when a packet's frame appears, in ticks of the stream."""
        return int(self._ticks[place])

    def packet_at(self, tick: int | None) -> int | None:
        """Return where the packet of a time stands in the file."""
        found = np.flatnonzero(self._ticks == tick)
        return int(found[0]) if len(found) else None

    def _measure(self, last_shown_s: float) -> float:
        """Return the time from the beginning of the first frame to the end of the last."""
        last_s = float(self.times_s[-1])
        if last_shown_s == 0 and len(self.times_s) > 1:  # WEBM may leave the last length out: take the mean
            last_shown_s = last_s / (len(self.times_s) - 1)
        return last_s + last_shown_s

    def _runs(self, places: list[int]) -> list[_Run]:
        """Return which packets to decode; a keyframe that appears after the frame is of no use to it."""
        runs: list[_Run] = []
        for place in places:
            at = int(np.searchsorted(self._keys, place, side="right")) - 1
            while at > 0 and self._ticks[self._keys[at]] > self._ticks[place]:
                at -= 1
            first, tick = int(self._keys[at]) if at >= 0 else 0, int(self._ticks[place])
            if runs and first <= runs[-1].last + 1:
                runs[-1] = _Run(runs[-1].first, max(place, runs[-1].last), [*runs[-1].ticks, tick])
            else:
                runs.append(_Run(first, place, [tick]))
        return runs

    def _decoded(self, reader: "_Reader", run: _Run) -> Iterator[av.VideoFrame]:
        """Decode a run; frames that nobody wants and nothing builds on are left out."""
        wanted = set(run.ticks)
        codec = reader.stream.codec_context
        for packet in reader.packets(run.first, run.last):
            codec.skip_frame = "DEFAULT" if packet is None or _tick(packet) in wanted else "NONREF"
            try:
                frames = codec.decode(packet)
            except av.error.FFmpegError:
                self.damaged_packets += 1  # a broken packet costs its own frame, not the video
                continue
            for frame in frames:
                check_pixels(frame.width, frame.height, self.name, self.limits)
                self.damaged_packets += bool(frame.is_corrupt)
                if frame.pts is not None:
                    yield frame
        codec.flush_buffers()

    def _image(self, frame: av.VideoFrame) -> Image.Image:
        """Convert to RGB while shrinking, then turn: `rotation` counts degrees counter-clockwise, as Pillow does."""
        width, height = shrunk(frame.width, frame.height, self.limits)
        image: Image.Image = frame.to_image(width=width, height=height)
        return image.rotate(frame.rotation, expand=True) if frame.rotation else image


class _Reader:
    """The packets of the film, in the order of the file, and where in it we are."""

    def __init__(self, film: Film) -> None:
        self._film = film
        self._open = ExitStack()

    def __enter__(self) -> "_Reader":
        film = self._film
        file = self._open.enter_context(opened(film.source, film.limits))
        try:
            container = av.open(file, format=film.container, options=_NOTHING_ELSE, metadata_errors="replace")
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(f"{film.name} is truncated or damaged; {WANTED}") from error
        self._container = self._open.enter_context(container)
        films = [stream for stream in container.streams.video if _is_film(stream)]
        if not films:
            raise MediaError(f"{film.name} has no video stream that can be decoded, perhaps only sound; {WANTED}")
        self.stream = films[0]
        check_pixels(self.stream.width, self.stream.height, film.name, film.limits)
        self.stream.thread_type = "AUTO"
        self.stream.codec_context.options = {"max_pixels": str(film.limits.max_pixels)}  # a frame may be larger
        self.tick_s = float(self.stream.time_base or 0)
        self._demuxed = self._container.demux(self.stream)
        self._held: av.Packet | None = None
        self._place = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def next(self) -> av.Packet | None:
        """Read one packet; a file that breaks off ends where it breaks."""
        self._film.deadline.check()
        packet, self._held = self._held, None
        try:
            packet = packet or next(self._demuxed)
        except (StopIteration, av.error.FFmpegError):
            return None
        self._place += 1
        return packet if packet.size else None  # the demuxer ends with an empty packet

    def packets(self, first: int, last: int) -> Iterator[av.Packet | None]:
        """Go to a packet and read until another, then say that no more will come."""
        if first - self._place > self._film.seek_over:
            self._seek(first)
        while self._place <= last:
            place = self._place
            packet = self.next()
            if packet is None:
                break
            if place >= first:
                yield packet
        yield None

    def _seek(self, place: int) -> None:
        """Jump to a keyframe; where the jump lands too far, begin anew and jump no more."""
        tick = self._film.tick_of(place)
        try:
            self._container.seek(tick, stream=self.stream, backward=True)
            self._demuxed = self._container.demux(self.stream)
            self._held = next(self._demuxed)
            landed = self._film.packet_at(_tick(self._held))
        except (StopIteration, av.error.FFmpegError):
            landed = None
        if landed is None or landed > place:
            self._film.seek_over = math.inf
            self._open.close()
            self.__enter__()
        else:
            self._place = landed


def _tick(packet: av.Packet) -> int | None:
    """Return when a packet's frame appears, in ticks of the stream."""
    tick: int | None = packet.dts if packet.pts is None else packet.pts
    return tick


def _is_film(stream: av.VideoStream) -> bool:
    """Tell a film that can be decoded from a song's cover and from an unknown codec."""
    return stream.codec_context is not None and not stream.disposition & Disposition.attached_pic


def _nearest(frames: Iterator[av.VideoFrame], ticks: list[int]) -> Iterator[av.VideoFrame]:
    """Give the frame nearest to each of the rising times, as soon as it is known."""
    wanted = iter(ticks)
    tick = next(wanted, None)
    before: av.VideoFrame | None = None
    for after in frames:
        if before is not None and after.pts <= before.pts:
            continue  # a damaged file may repeat a time; the first frame with it is kept
        while tick is not None and tick <= after.pts:
            earlier = before is not None and tick - before.pts <= after.pts - tick
            yield before if earlier else after
            tick = next(wanted, None)
        before = after
    while before is not None and tick is not None:
        yield before
        tick = next(wanted, None)
