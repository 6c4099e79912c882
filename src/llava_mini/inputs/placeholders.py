"""Which picture or video belongs to which placeholder of which text."""

from collections.abc import Sequence
from typing import Any

from llava_mini.errors import InputError
from llava_mini.inputs.chat import ChatTokens


def in_rows(given: Any, chats: list[ChatTokens], token_id: int, *, clips: bool = False) -> list[list[Any]]:
    """Return one list of media a text, from nested lists or one flat list; `clips` may be lists of frames."""
    wanted = [chat.ids.count(token_id) for chat in chats]
    if given is None:
        given = []
    if not isinstance(given, list | tuple):
        given = [given]
    if len(given) == len(chats) and all(isinstance(row, list | tuple) for row in given):
        flat = clips and sum(wanted) == len(given) and _is_clip(given, wanted)
        if not flat:
            return [list(row) for row in given]
    if sum(wanted) != len(given):
        raise InputError(f"the texts have {sum(wanted)} places for media, but {len(given)} were given")
    upcoming = iter(given)
    return [[next(upcoming) for _ in range(count)] for count in wanted]


def _is_clip(given: Sequence[Any], wanted: list[int]) -> bool:
    """Tell whether lists stand for videos given as frames rather than for rows."""
    return any(len(row) != count for row, count in zip(given, wanted, strict=True))


def in_order(ids: list[int], image_id: int, video_id: int, images: list[Any], videos: list[Any]) -> list[Any]:
    """Interleave pictures and videos as their placeholders stand."""
    if ids.count(image_id) != len(images) or ids.count(video_id) != len(videos):
        raise InputError(
            f"the text has {ids.count(image_id)} × <image> and {ids.count(video_id)} × <video>, "
            f"but {len(images)} pictures and {len(videos)} videos were given"
        )
    pictures, clips = iter(images), iter(videos)
    return [next(pictures) if token == image_id else next(clips) for token in ids if token in (image_id, video_id)]
