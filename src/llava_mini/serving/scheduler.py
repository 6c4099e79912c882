"""From conversations to pieces of answers, many at once.

    submit → (bounded) → prepare: decode media, encode pictures, fuse words → (in order) → join the running batch → step

Two kinds of threads: a few prepare, one runs the language model. Requests are answered in the order in which they are
ready, and nobody overtakes one that waits for room.
"""

import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from llava_mini.assistant import Assistant
from llava_mini.engines import check_batches
from llava_mini.errors import InputError, LlavaMiniError, ModelError
from llava_mini.inputs.chat import Messages
from llava_mini.serving.batch import RunningBatch
from llava_mini.serving.choice import Choice, Settings
from llava_mini.serving.preparing import Prepared, Preparer
from llava_mini.serving.requests import (
    BusyError,
    Event,
    Said,
    ServerLimits,
    StoppingError,
    Ticket,
    UnpreparedError,
)


class Scheduler:
    """Answer many conversations at once with one model."""

    def __init__(self, assistant: Assistant, limits: ServerLimits | None = None) -> None:
        """Start the threads.

        Raises:
            InputError: for a model whose language model runs in llama.cpp.
        """
        check_batches(assistant.engine)
        self.assistant, self.limits = assistant, limits or ServerLimits()
        self.preparer = Preparer(assistant, self.limits)
        self._batch = RunningBatch(assistant.model)
        self._rows: list[tuple[Ticket, Choice, int]] = []
        self._next: list[int] = []
        """The last token of each row."""
        self._ready: deque[Prepared] = deque()
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._open: set[Ticket] = set()
        self._stopping = self._stopped = False
        self._mean_s = 1.0
        self._changed = threading.Condition()
        # Each with all cores, they and the language model would wait for each other at every product.
        share = max(1, torch.get_num_threads() // self.limits.preparing)
        self._preparers = ThreadPoolExecutor(
            self.limits.preparing, thread_name_prefix="prepare", initializer=torch.set_num_threads, initargs=(share,)
        )
        self._decoder = threading.Thread(target=self._decode, name="decode", daemon=True)
        self._decoder.start()

    @property
    def running(self) -> int:
        """Answers that are being made."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Requests that are prepared or wait for room."""
        return len(self._open) - len({ticket for ticket, _, _ in list(self._rows)})

    @property
    def stopping(self) -> bool:
        """Whether further requests are refused."""
        return self._stopping

    def submit(self, messages: Messages, settings: Settings, tell: Callable[[Event], None]) -> Ticket:
        """Take a conversation whose media are bytes; what happens is told from other threads.

        Raises:
            BusyError, StoppingError, InputError: as `reserve` does.
        """
        ticket = self.reserve(settings, tell)
        self.answer(ticket, messages)
        return ticket

    def reserve(self, settings: Settings, tell: Callable[[Event], None] = lambda _: None) -> Ticket:
        """Take a place for a request, before anything is done for it; `answer` or `release` it.

        Raises:
            BusyError: when there are as many requests as are taken.
            StoppingError: when no more are.
            InputError: when it asks for more answers than are made at once.
        """
        if settings.choices > self.limits.rows:
            raise InputError(f"n is {settings.choices}; at most {self.limits.rows} answers are made at once")
        ticket = Ticket(settings, tell)
        with self._changed:
            if self._stopping:
                raise StoppingError
            if len(self._open) >= self.limits.waiting:
                raise BusyError(len(self._open), max(1, math.ceil(self._mean_s)))
            self._open.add(ticket)
        return ticket

    def answer(self, ticket: Ticket, messages: Messages) -> None:
        """Answer a conversation whose media are bytes in its place.

        Raises:
            StoppingError: when no more are answered.
        """
        ticket.messages = messages
        self.prepare(self._prepare, ticket)

    def release(self, ticket: Ticket) -> None:
        """Give a place back."""
        ticket.cancel()
        self._close(ticket)

    def prepare(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Run something that needs no language model, in the threads that prepare.

        Raises:
            StoppingError: when no more is prepared.
        """
        try:
            return self._preparers.submit(function, *args)
        except RuntimeError as error:
            raise StoppingError from error

    def run(self, function: Callable[[], Any]) -> "Future[Any]":
        """Run something that needs the language model for itself, between two steps.

        Raises:
            StoppingError: when no more requests are taken.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._stopping:
                raise StoppingError
            if len(self._jobs) >= self.limits.waiting:
                raise BusyError(len(self._jobs), max(1, math.ceil(self._mean_s)))
            self._jobs.append((function, future))
            self._changed.notify_all()
        return future

    def close(self, grace_s: float = 30.0) -> None:
        """Refuse what comes, finish what is there; after `grace_s` tell the rest that the server stops.

        Whoever closes it again shortens the wait.
        """
        with self._changed:
            self._stopping = True
            self._changed.wait_for(lambda: self._stopped or not (self._open or self._jobs), timeout=grace_s)
            self._stopped = True
            left = list(self._open)
            self._changed.notify_all()
        for ticket in left:
            self._end(ticket, StoppingError())
        self._preparers.shutdown(wait=True, cancel_futures=True)
        self._decoder.join()

    def _prepare(self, ticket: Ticket) -> None:
        """Open files, encode pictures and fuse words; then wait for room in the batch."""
        try:
            prepared = self.preparer.prepare(ticket)
        except LlavaMiniError as error:
            self._end(ticket, error)
            return
        except Exception as error:  # one request's surprise is not the others' end
            self._end(ticket, UnpreparedError(f"the question could not be prepared ({type(error).__name__})"))
            return
        self._take_in(prepared)

    def _take_in(self, prepared: Prepared) -> None:
        """Let a question wait for room in the batch."""
        with self._changed:
            if prepared.nbytes + sum(one.nbytes for one in self._ready) > self.assistant.openings.max_bytes:
                prepared = dataclasses.replace(prepared, dialogue=None)
            self._ready.append(prepared)
            self._changed.notify_all()

    def _decode(self) -> None:
        """Run jobs, admit who fits, step; until closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._ready or self._rows or self._stopped)
                if self._stopped:
                    for _, future in self._jobs:
                        if future.set_running_or_notify_cancel():
                            future.set_exception(StoppingError())
                    return
                job = self._jobs.popleft() if self._jobs else None
            if job is not None:
                self._run_job(*job)
            try:
                self._leave()
                self._admit()
                if self._rows:
                    self._take(self._batch.step(torch.tensor(self._next, device=self.assistant.model.device)), 0)
            except Exception as error:  # all rows share the cache: none of them can go on
                reason = ModelError(f"the language model failed ({type(error).__name__})")
                for ticket in {ticket for ticket, _, _ in self._rows}:
                    self._end(ticket, reason)
                self._rows, self._next, self._batch = [], [], RunningBatch(self.assistant.model)

    def _run_job(self, function: Callable[[], Any], future: "Future[Any]") -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function())
            except BaseException as error:  # handed to whoever waits
                future.set_exception(error)
        with self._changed:
            self._changed.notify_all()

    def _admit(self) -> None:
        """Let one group of those who are ready join; those who run take a step before the next group is read."""
        if chosen := self._fitting():
            prompts = [one.embeds for one in chosen]
            copies = [one.ticket.settings.choices for one in chosen]
            try:
                logits = self._batch.join(prompts, copies, [one.dialogue for one in chosen])
            except Exception as error:  # those who run are not touched by a prompt that cannot be read
                for one in chosen:
                    self._end(one.ticket, ModelError(f"the question could not be read ({type(error).__name__})"))
                return
            for one in chosen:
                if one.dialogue is not None:
                    self.assistant.openings.put(one.shown, one.dialogue)
            first = len(self._rows)
            tokenizer, endings = self.assistant.processor.tokenizer, self._endings()
            for one in chosen:
                settings = one.ticket.settings
                self._tell(one.ticket, one.started)
                for number in range(settings.choices):
                    self._rows.append((one.ticket, Choice(tokenizer, settings, one.most, endings, number), number))
            self._take(logits, first)

    def _fitting(self) -> list[Prepared]:
        """Take from the front of the queue what can be read together now."""
        chosen: list[Prepared] = []
        limits, rows = self.limits, 0
        steps = max((choice.left for _, choice, _ in self._rows), default=0)
        with self._changed:
            while self._ready:
                one = self._ready[0]
                if one.ticket.gone.is_set():
                    self._ready.popleft()
                    self._close(one.ticket)
                    continue
                if chosen and bool(one.kept) != bool(chosen[0].kept):
                    break  # padded to the length of one that is read whole, what is kept would save nothing
                group = [*chosen, one]
                lengths = [len(other.embeds) for other in group]
                unread = [len(other.embeds) - other.kept for other in group]
                places = len(group) * (max(other.kept for other in group) + max(unread))
                more = one.ticket.settings.choices
                full = len(self._batch) + rows + more > limits.rows
                steps = max(steps, one.most)  # room is kept for the answers, too
                wide = self._batch.places_with([max(lengths)] * (rows + more), steps) > limits.places
                if (self._rows or chosen) and (full or wide):
                    break
                if chosen and places > limits.prefill_tokens:
                    break
                chosen.append(self._ready.popleft())
                rows += more
        return chosen

    def _take(self, logits: Tensor, first: int) -> None:
        """Let the rows from `first` on choose their next tokens, and let those leave that have ended."""
        del self._next[first:]
        told: list[tuple[Ticket, Said]] = []
        for (ticket, choice, number), row in zip(self._rows[first:], logits, strict=True):
            try:
                piece = choice.take(row)
            except Exception as error:  # one row's choice is nobody else's
                self._next.append(0)
                self._end(ticket, ModelError(f"the next token could not be chosen ({type(error).__name__})"))
                continue
            self._next.append(choice.tokens[-1])
            if piece.text or piece.ending:
                told.append((ticket, Said(number, piece, len(choice.tokens))))
        self._leave()  # before anybody hears of it: who has heard the end finds no row of theirs
        for ticket, said in told:
            self._tell(ticket, said)

    def _leave(self) -> None:
        """Take rows out that have ended or that nobody waits for."""
        stay = [
            index
            for index, (ticket, choice, _) in enumerate(self._rows)
            if not choice.ended and not ticket.gone.is_set()
        ]
        if len(stay) == len(self._rows):
            return
        before = {ticket for ticket, _, _ in self._rows}
        self._batch.keep(stay)
        self._rows, self._next = [self._rows[i] for i in stay], [self._next[i] for i in stay]
        for ticket in before - {ticket for ticket, _, _ in self._rows}:
            self._close(ticket)

    def _endings(self) -> list[int]:
        """Return the tokens that end an answer."""
        ids = self.assistant.model.generation_config.eos_token_id
        return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)

    def _tell(self, ticket: Ticket, event: Event) -> None:
        """Tell what happened; a listener that cannot hear has gone."""
        if ticket.gone.is_set():
            return
        try:
            ticket.tell(event)
        except Exception:  # the listener's loop has been closed
            ticket.cancel()

    def _end(self, ticket: Ticket, error: LlavaMiniError) -> None:
        """Tell the error that ends a request."""
        with self._changed:
            if ticket not in self._open:
                return
        self._tell(ticket, error)
        self.release(ticket)

    def _close(self, ticket: Ticket) -> None:
        """Forget a request."""
        with self._changed:
            if ticket in self._open:
                self._open.remove(ticket)
                self._mean_s += 0.2 * (time.monotonic() - ticket.began - self._mean_s)
                self._changed.notify_all()
