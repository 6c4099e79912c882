"""One question, one picture or video: a page that shows where the model looked."""

from pathlib import Path
from typing import Any

from llava_mini.analysis.attention import NO_ANSWER, Profile, look
from llava_mini.analysis.fusion import can_read, read
from llava_mini.analysis.report import write_report
from llava_mini.analysis.subjects import MiniSubject
from llava_mini.assistant import Assistant
from llava_mini.errors import InputError
from llava_mini.inputs.processor import Media, frames_of


def write_explanation(assistant: Assistant, question: str, media: Media, response: str, path: Path) -> None:
    """Write the page of an answer that was given.

    Raises:
        InputError: when the page cannot be written there.
    """
    subject = MiniSubject(assistant)
    response = response or NO_ANSWER
    seen = subject.see(question, media, response)
    told: dict[str, Any] = {"profile": Profile(assistant.name, [look(subject, seen, question, response)]).as_dict()}
    if can_read(subject):
        told["readings"] = [read(subject, question, media).as_dict()]
    try:
        write_report(told, [[frame.copy() for frame in frames_of(media)]], path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {(error.strerror or 'unknown error').lower()}") from error
