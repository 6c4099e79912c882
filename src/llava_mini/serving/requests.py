"""What a server takes, what happens to a request, and how it may end."""

import dataclasses
import threading
import time
from collections.abc import Callable

from llava_mini.errors import InputError, LlavaMiniError, ModelError
from llava_mini.inputs.chat import Messages
from llava_mini.inputs.media import DEFAULT_LIMITS, MediaLimits
from llava_mini.serving.choice import Piece, Settings

FILE_LIMITS = dataclasses.replace(
    DEFAULT_LIMITS, max_bytes=48 * 2**20, max_duration_s=3600.0, max_decode_s=60.0, max_packets=1_000_000
)


@dataclasses.dataclass(frozen=True)
class ServerLimits:
    """How much one server and one request may take."""

    waiting: int = 64
    """Requests that are prepared, wait or are answered; further ones are refused (429)."""
    rows: int = 16
    """Answers that are made at once."""
    places: int = 65_536
    """Tokens in the cache of the running batch, padding and answers to come included; one request always fits."""
    prefill_tokens: int = 4_096
    """Prompt tokens, padding included, that are read between two steps; a longer prompt is read alone."""
    preparing: int = 2
    """Threads that decode and encode pictures and videos."""
    answer_tokens: int = 2_048
    """Longest answer; whoever asks for more gets this."""
    default_answer_tokens: int = 512
    """Longest answer where the request says nothing."""
    media: int = 16
    """Pictures and videos of one request."""
    media_bytes: int = 64 * 2**20
    """Bytes of all pictures and videos of one request, those that are fetched too."""
    pixels: int = 100_000_000
    """Pixels of all pictures of one request; they are decoded together."""
    frames: int = 128
    """Frames looked at of one video."""
    body_bytes: int = 64 * 2**20
    """Size of a request."""
    file: MediaLimits = FILE_LIMITS
    """What is accepted of one picture or video."""


class BusyError(LlavaMiniError):
    """The server has as many requests as it takes."""

    def __init__(self, requests: int, retry_after_s: int) -> None:
        super().__init__(f"{requests} requests are being answered or wait; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class StoppingError(LlavaMiniError):
    """The server is being stopped and takes no further request."""

    def __init__(self) -> None:
        super().__init__("the server is stopping; ask another one, or again when it is back")


class GoneError(LlavaMiniError):
    """Whoever asked has gone."""


class UnpreparedError(ModelError):
    """One question's files or words failed in a way that nobody foresaw."""


class TooLongError(InputError):
    """A conversation with its answer does not fit into the model's context."""


@dataclasses.dataclass(frozen=True)
class Started:
    """What a question costs; told before its first token."""

    prompt_tokens: int
    vision_tokens: int
    frames: int


@dataclasses.dataclass(frozen=True)
class Said:
    """A piece of one of the answers."""

    choice: int
    piece: Piece
    tokens: int
    """Tokens of this answer so far."""


Event = Started | Said | LlavaMiniError
"""What happens to a request; an error, or the last choice's ending, is the last one."""


class Ticket:
    """A request on its way."""

    def __init__(self, settings: Settings, tell: Callable[[Event], None]) -> None:
        self.settings, self.tell = settings, tell
        self.messages: Messages = []
        """What is asked; empty until it is there, and once it has been prepared."""
        self.began = time.monotonic()
        self.gone = threading.Event()
        """Set once nobody waits for the answer any more."""

    def cancel(self) -> None:
        """Stop working for it; nothing more is told."""
        self.gone.set()

    def check(self, *_: object) -> None:
        """Raise when it has been cancelled."""
        if self.gone.is_set():
            raise GoneError("whoever asked has gone")
