"""The scheduler of a front whose language model runs on servers: it prepares, sends embeddings on, and passes on text.

    submit → (bounded) → prepare: decode media, encode pictures, fuse words → a server, many at a time → pieces

Which rows share a step is the servers' affair.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from typing import Any, cast

from llava_mini.assistant import Assistant
from llava_mini.errors import InputError, LlavaMiniError, ModelError
from llava_mini.serving.choice import Ending, Piece, Settings
from llava_mini.serving.preparing import Prepared
from llava_mini.serving.requests import Event, Said, ServerLimits, Ticket
from llava_mini.serving.scheduler import Scheduler


class Relay(Scheduler):
    """Answer many conversations at once through servers."""

    def __init__(self, assistant: Assistant, limits: ServerLimits | None = None, *, at_once: bool = False) -> None:
        """Start the threads.

        Args:
            at_once: get each answer in one piece, where nobody watches it come.
        """
        super().__init__(assistant, limits)
        assert assistant.served is not None
        self._served, self._at_once = assistant.served, at_once
        self._prepared: queue.SimpleQueue[Prepared | None] = queue.SimpleQueue()
        self._asked: set[Ticket] = set()
        for number in range(self.limits.rows):  # daemons: who waits for a server must not keep a process alive
            threading.Thread(target=self._work, name=f"relay-{number}", daemon=True).start()

    @property
    def running(self) -> int:
        """Questions that the servers work on."""
        return len(self._asked)

    @property
    def waiting(self) -> int:
        """Requests that are prepared or wait for a free place at the servers."""
        return len(self._open) - len(self._asked)

    def reserve(self, settings: Settings, tell: Callable[[Event], None] = lambda _: None) -> Ticket:
        """Take a place for a request, as a scheduler does.

        Raises:
            InputError: when log-probabilities are asked for.
        """
        if settings.top_logprobs is not None:
            raise InputError("log-probabilities are not passed on from the servers; leave logprobs out")
        return super().reserve(settings, tell)

    def run(self, function: Callable[[], Any]) -> "Future[Any]":
        """Refuse: the language model is not here.

        Raises:
            InputError: always.
        """
        raise InputError("the language model runs on a server, which does not say where it looked; leave answer out")

    def close(self, grace_s: float = 30.0) -> None:
        """Refuse what comes and finish what is there."""
        super().close(grace_s)
        for _ in range(self.limits.rows):
            self._prepared.put(None)

    def _take_in(self, prepared: Prepared) -> None:
        self._prepared.put(prepared)

    def _work(self) -> None:
        """Send questions on, one after the other, until closed."""
        while (prepared := self._prepared.get()) is not None:
            ticket = prepared.ticket
            try:
                self._pass_on(prepared)
            except LlavaMiniError as error:
                self._leave_servers(ticket, error)
            except Exception as error:  # one request's surprise is not the others' end
                self._leave_servers(ticket, ModelError(f"the servers' answer failed ({type(error).__name__})"))

    def _pass_on(self, prepared: Prepared) -> None:
        """Ask for the answer of one question, and tell it piece by piece; its ending is told last."""
        ticket, settings = prepared.ticket, prepared.ticket.settings
        endings: list[Said] = []
        began: set[int] = set()
        greedy = settings.temperature == 0  # all choices are the same, and vLLM refuses to make several
        if not ticket.gone.is_set():
            self._asked.add(ticket)
            said = self._served.stream(
                prepared.embeds,
                max_new_tokens=prepared.most,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=settings.seed,
                stop=settings.stop,
                choices=1 if greedy else settings.choices,
                at_once=self._at_once,
            )
            with closing(said):  # who stops reading stops the server
                for number, piece in enumerate(said):
                    if ticket.gone.is_set():
                        break
                    if number == 0:
                        self._tell(ticket, prepared.started)
                    for choice in range(settings.choices) if greedy else (piece.choice,):
                        text = piece.text if choice in began else piece.text.lstrip()
                        if text:
                            began.add(choice)
                        told = Said(choice, Piece(text, (), cast(Ending, piece.ending)), piece.tokens)
                        if piece.ending:
                            endings.append(told)
                        elif text:
                            self._tell(ticket, told)
        self._asked.discard(ticket)
        for told in endings[:-1]:
            self._tell(ticket, told)
        self._close(ticket)  # who has heard the end finds no place taken
        for told in endings[-1:]:
            self._tell(ticket, told)

    def _leave_servers(self, ticket: Ticket, error: LlavaMiniError) -> None:
        self._asked.discard(ticket)
        self._end(ticket, error)
