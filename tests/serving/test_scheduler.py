"""Many requests share one batch, and each is answered as if it were alone."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from corpus import BLUE, GREEN, RED, encoded, png_bomb, video
from PIL import Image
from tiny import tiny_model, tiny_processor

from llava_mini import Assistant
from llava_mini.errors import InputError, LlavaMiniError, MediaError, ModelError
from llava_mini.reply import Sampling
from llava_mini.serving.choice import Choice, Piece, Settings
from llava_mini.serving.requests import (
    BusyError,
    Event,
    Said,
    ServerLimits,
    Started,
    StoppingError,
    Ticket,
    TooLongError,
)
from llava_mini.serving.scheduler import Scheduler


def make(**changes: Any) -> Assistant:
    """An assistant that always uses up its tokens."""
    model = tiny_model(**changes)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return Assistant(model, tiny_processor(model.config), "tiny")


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return make()


@pytest.fixture
def scheduler(assistant: Assistant) -> Iterator[Scheduler]:
    made = Scheduler(assistant)
    yield made
    made.close(grace_s=0)


def png(colour: tuple[int, int, int]) -> bytes:
    return encoded(Image.new("RGB", (40, 30), colour), "PNG")


def asked(text: str, *files: bytes) -> list[dict[str, Any]]:
    media = [{"type": "image", "data": file} for file in files]
    return [{"role": "user", "content": [*media, {"type": "text", "text": text}]}]


class Listener:
    """Collects what is told."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def texts(self, choices: int = 1) -> list[str]:
        """Wait for the end; the text of each choice."""
        texts, ended = [""] * choices, 0
        while ended < choices:
            event = self.events.get(timeout=60)
            if isinstance(event, LlavaMiniError):
                raise event
            if isinstance(event, Said):
                texts[event.choice] += event.piece.text
                ended += event.piece.ending is not None
        return texts


def send(scheduler: Scheduler, messages: list[dict[str, Any]], **settings: Any) -> tuple[Listener, Ticket]:
    listener = Listener()
    return listener, scheduler.submit(messages, Settings(**settings), listener.events.put)


QUESTIONS = [
    ("what", (RED,)),
    ("which of the colours is it now", (GREEN, BLUE)),
    ("a", ()),
    ("is it red or is it blue or is it none of the two", (BLUE,)),
    ("where", (RED,)),
]


@pytest.mark.parametrize("lengths", [(8,) * 5, (2, 11, 5, 1, 7)], ids=["together", "leaving one by one"])
def test_requests_of_one_batch_are_answered_as_if_alone(
    assistant: Assistant, scheduler: Scheduler, lengths: tuple[int, ...]
) -> None:
    sent = [
        send(scheduler, asked(text, *map(png, colours)), max_tokens=length)[0]
        for (text, colours), length in zip(QUESTIONS, lengths, strict=True)
    ]
    for (text, colours), length, listener in zip(QUESTIONS, lengths, sent, strict=True):
        alone = assistant.ask(text, *map(png, colours), sampling=Sampling(max_new_tokens=length))
        assert listener.texts()[0].strip() == alone.text


def test_a_request_joins_while_others_are_answered(assistant: Assistant, scheduler: Scheduler) -> None:
    long, _ = send(scheduler, asked("what", png(RED)), max_tokens=60)
    assert isinstance(long.events.get(timeout=60), Started)
    late, _ = send(scheduler, asked("which", png(BLUE)), max_tokens=3)
    assert late.texts()[0].strip() == assistant.ask("which", png(BLUE), sampling=Sampling(max_new_tokens=3)).text
    assert long.texts()[0].strip() == assistant.ask("what", png(RED), sampling=Sampling(max_new_tokens=60)).text


def test_later_turns_and_videos_are_read_as_a_chat_reads_them(assistant: Assistant, scheduler: Scheduler) -> None:
    film = video([RED] * 8 + [GREEN] * 8)
    chat = assistant.chat(film)
    first = chat.ask("what", sampling=Sampling(max_new_tokens=4)).text
    second = chat.ask("which", sampling=Sampling(max_new_tokens=4)).text
    turns = [
        *asked("what", film),
        {"role": "assistant", "content": [{"type": "text", "text": first}]},
        *asked("which"),
    ]
    listener, _ = send(scheduler, turns, max_tokens=4)
    assert listener.texts()[0].strip() == second


def test_what_is_told_before_the_first_token_is_what_the_question_costs(scheduler: Scheduler) -> None:
    listener, _ = send(scheduler, asked("what", png(RED), video([RED] * 16)), max_tokens=1)
    started = listener.events.get(timeout=60)
    assert isinstance(started, Started)
    assert started.frames == started.vision_tokens
    assert started.frames > 1 < started.prompt_tokens


def test_a_picture_is_encoded_once_for_all_who_ask_about_it(assistant: Assistant, scheduler: Scheduler) -> None:
    send(scheduler, asked("what", png((1, 2, 3))), max_tokens=1)[0].texts()
    runs: list[int] = []
    hook = assistant.model.model.vision_tower.register_forward_hook(lambda *_: runs.append(1))
    for text in ("where", "which"):
        send(scheduler, asked(text, png((1, 2, 3))), max_tokens=1)[0].texts()
    hook.remove()
    assert not runs


def test_the_same_seed_gives_the_same_answers_and_each_choice_its_own(scheduler: Scheduler) -> None:
    def drawn(seed: int) -> list[str]:
        listener, _ = send(scheduler, asked("what"), max_tokens=8, temperature=1.0, seed=seed, choices=3)
        return listener.texts(3)

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 3


def test_top_p_leaves_only_the_likeliest(scheduler: Scheduler) -> None:
    likeliest = send(scheduler, asked("what"), max_tokens=6)[0].texts()
    assert send(scheduler, asked("what"), max_tokens=6, temperature=1.5, top_p=1e-6)[0].texts() == likeliest


def test_an_answer_ends_before_a_stop_text_and_never_shows_its_beginning(scheduler: Scheduler) -> None:
    whole = send(scheduler, asked("what"), max_tokens=12)[0].texts()[0]
    assert len(whole) > 6
    stop = whole[4:7]
    listener, _ = send(scheduler, asked("what"), max_tokens=12, stop=(stop, "never there"))
    assert listener.texts()[0] == whole[: whole.index(stop)]


def test_logprobs_are_those_of_the_model_and_one_a_token(assistant: Assistant, scheduler: Scheduler) -> None:
    listener, _ = send(scheduler, asked("what"), max_tokens=5, top_logprobs=2)
    told = []
    while True:
        event = listener.events.get(timeout=60)
        if isinstance(event, Said):
            told += event.piece.logprobs
            if event.piece.ending:
                assert event.tokens == 5
                break
    assert len(told) == 5
    messages = asked("what")
    inputs: Any = assistant.processor.tokenize_conversations([messages], add_generation_prompt=True)
    with torch.no_grad():
        logits = assistant.model(input_ids=inputs["input_ids"]).logits[0, -1].log_softmax(dim=-1)
    assert told[0].logprob == pytest.approx(float(logits.max()), abs=1e-4)
    assert [one.logprob for one in told[0].top] == pytest.approx(logits.topk(2).values.tolist(), abs=1e-4)


def test_a_request_that_is_cancelled_leaves_the_batch_and_the_others_go_on(
    assistant: Assistant, scheduler: Scheduler
) -> None:
    gone, ticket = send(scheduler, asked("what"), max_tokens=100)
    stays, _ = send(scheduler, asked("where"), max_tokens=20)
    assert isinstance(gone.events.get(timeout=60), Started)
    ticket.cancel()
    assert stays.texts()[0].strip() == assistant.ask("where", sampling=Sampling(max_new_tokens=20)).text
    send(scheduler, asked("a"), max_tokens=1)[0].texts()
    assert (scheduler.running, scheduler.waiting) == (0, 0)


@pytest.mark.parametrize(
    ("messages", "settings", "kind", "words"),
    [
        (asked("what", b"no picture"), {}, MediaError, "give a JPEG"),
        (asked("what", png_bomb()), {}, MediaError, "pixels"),
        (asked("what", png(RED)[:60]), {}, MediaError, "damaged"),
        (asked("what", *[png(RED)] * 17), {}, InputError, "17 pictures"),
        (asked("what " * 5000), {}, InputError, "context"),
        (asked("what " * 60_000), {}, TooLongError, "characters"),
    ],
)
def test_what_cannot_be_answered_is_told_in_one_line_and_harms_nobody(
    scheduler: Scheduler, messages: list[dict[str, Any]], settings: dict[str, Any], kind: type, words: str
) -> None:
    good, _ = send(scheduler, asked("where"), max_tokens=8)
    bad, _ = send(scheduler, messages, **settings)
    with pytest.raises(kind, match=words) as raised:
        bad.texts()
    assert "\n" not in str(raised.value)
    assert good.texts()[0]


def test_a_full_server_refuses_and_says_when_to_come_back(assistant: Assistant) -> None:
    scheduler = Scheduler(assistant, ServerLimits(waiting=2))
    blocked = threading.Event()
    scheduler.run(blocked.wait)  # the language model is busy: nobody can be answered
    sent = [send(scheduler, asked("what"), max_tokens=2)[0] for _ in range(2)]
    with pytest.raises(BusyError, match="try again in") as raised:
        send(scheduler, asked("what"))
    assert raised.value.retry_after_s >= 1
    blocked.set()
    assert all(listener.texts()[0] for listener in sent)
    scheduler.close(grace_s=0)


@pytest.mark.parametrize("limits", [ServerLimits(rows=2), ServerLimits(places=60), ServerLimits(prefill_tokens=1)])
def test_who_does_not_fit_waits_and_is_answered(assistant: Assistant, limits: ServerLimits) -> None:
    scheduler = Scheduler(assistant, limits)
    sent = [send(scheduler, asked(text), max_tokens=5)[0] for text in ("what", "where", "which", "a", "is")]
    for text, listener in zip(("what", "where", "which", "a", "is"), sent, strict=True):
        assert listener.texts()[0].strip() == assistant.ask(text, sampling=Sampling(max_new_tokens=5)).text
    scheduler.close(grace_s=0)


def test_a_server_that_stops_finishes_what_it_took_and_takes_no_more(assistant: Assistant) -> None:
    scheduler = Scheduler(assistant)
    sent = [send(scheduler, asked("what"), max_tokens=20)[0] for _ in range(3)]
    scheduler.close(grace_s=60)
    assert all(listener.texts()[0] for listener in sent)
    with pytest.raises(StoppingError, match="stopping"):
        send(scheduler, asked("what"))


def test_who_is_not_finished_in_time_is_told(assistant: Assistant) -> None:
    scheduler = Scheduler(assistant)
    blocked = threading.Event()
    scheduler.run(blocked.wait)
    listener, _ = send(scheduler, asked("what"))
    closing = threading.Thread(target=scheduler.close, kwargs={"grace_s": 0})
    closing.start()
    with pytest.raises(StoppingError):
        listener.texts()
    blocked.set()
    closing.join()


def test_a_failure_of_the_language_model_ends_its_rows_and_not_the_server(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(assistant)
    with monkeypatch.context() as patch:
        patch.setattr(scheduler._batch, "step", lambda _: 1 / 0)
        listener, _ = send(scheduler, asked("what"), max_tokens=5)
        with pytest.raises(ModelError, match="failed"):
            listener.texts()
    assert send(scheduler, asked("what"), max_tokens=5)[0].texts()[0]
    scheduler.close(grace_s=0)


def test_an_engine_that_cannot_change_its_batch_is_refused(assistant: Assistant) -> None:
    with pytest.raises(InputError, match="--engine int8"):
        Scheduler(Assistant(assistant.model, assistant.processor, "tiny", "x.gguf"))


def test_a_choice_that_fails_ends_its_own_request_alone(
    assistant: Assistant, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Choice.take

    def failing(self: Choice, logits: torch.Tensor) -> Piece:
        if self._settings.temperature:
            raise RuntimeError("probability tensor contains nan")
        return take(self, logits)

    monkeypatch.setattr(Choice, "take", failing)
    good, _ = send(scheduler, asked("where"), max_tokens=20)
    bad, _ = send(scheduler, asked("what"), max_tokens=20, temperature=1.0)
    with pytest.raises(ModelError, match="could not be chosen"):
        bad.texts()
    assert good.texts()[0].strip() == assistant.ask("where", sampling=Sampling(max_new_tokens=20)).text


def ready_together(scheduler: Scheduler, *questions: Any) -> list[Listener]:
    """Send questions, each a text, most tokens and files, that all wait for room before the language model goes on."""
    blocked = threading.Event()
    scheduler.run(lambda: blocked.wait(60))
    ready, arrived, take_in = threading.Semaphore(0), [], scheduler._take_in  # type: ignore[var-annotated]

    def taken(prepared: Any) -> None:
        take_in(prepared)
        arrived.append(prepared)
        ready.release()

    scheduler._take_in = taken  # type: ignore[method-assign]
    sent = [send(scheduler, asked(text, *files), max_tokens=most)[0] for text, most, *files in questions]
    for _ in questions:
        assert ready.acquire(timeout=60)
    scheduler._take_in = take_in  # type: ignore[method-assign]
    blocked.set()
    return sent


def test_words_that_were_asked_before_about_a_picture_are_not_read_again() -> None:
    assistant = make()
    read: list[int] = []
    assistant.model.model.language_model.register_forward_pre_hook(
        lambda _, __, given: read.append(given["inputs_embeds"].shape[1]), with_kwargs=True
    )
    scheduler = Scheduler(assistant)
    turns, whole = asked("what is it and which of the colours", png(RED)), []
    for text in ("where", "is it red or blue", "what"):
        read.clear()
        listener, _ = send(scheduler, turns, max_tokens=4)
        started = listener.events.get(timeout=60)
        assert isinstance(started, Started)
        answer = listener.texts()[0]
        assert read[0] == started.prompt_tokens - (whole[-1] if whole else 0)
        whole.append(started.prompt_tokens)
        assert answer == alone(turns, max_tokens=4)
        turns = [*turns, {"role": "assistant", "content": [{"type": "text", "text": answer}]}, *asked(text)]
    read.clear()
    other = asked("what is it and which of the colours", png(BLUE))
    assert send(scheduler, other, max_tokens=4)[0].texts()[0] == alone(other, max_tokens=4)
    scheduler.close(grace_s=0)
    assert read[0] == whole[0], "another picture is read with all its words"
    assert len(assistant.openings) == 2


def alone(messages: list[dict[str, Any]], **settings: Any) -> str:
    """What a process that keeps nothing answers."""
    scheduler = Scheduler(make())
    scheduler.assistant.openings.max_bytes = 0
    answer = send(scheduler, messages, **settings)[0].texts()[0]
    scheduler.close(grace_s=0)
    return answer


def test_what_is_kept_for_those_who_wait_is_bounded_in_bytes(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(assistant)
    assistant.openings.clear()
    taken: queue.SimpleQueue[Any] = queue.SimpleQueue()
    monkeypatch.setattr(scheduler, "_take_in", taken.put)
    sent = [send(scheduler, asked(text, png(RED)), max_tokens=2)[0] for text in ("what", "where", "which")]
    prepared = [taken.get(timeout=60) for _ in sent]
    assert all(one.nbytes > 0 for one in prepared)
    monkeypatch.setattr(assistant.openings, "max_bytes", 2 * max(one.nbytes for one in prepared))
    blocked = threading.Event()
    scheduler.run(lambda: blocked.wait(60))
    for one in prepared:
        Scheduler._take_in(scheduler, one)
    assert [one.dialogue is not None for one in scheduler._ready] == [True, True, False]
    blocked.set()
    for listener in sent:
        assert listener.texts()
    scheduler.close(grace_s=0)


def test_who_has_something_kept_is_not_read_with_who_has_nothing() -> None:
    scheduler = Scheduler(make(), ServerLimits(preparing=1))  # so that they are ready in their order
    send(scheduler, asked("what is it", png(RED)), max_tokens=1)[0].texts()
    groups: list[list[bool]] = []
    join = scheduler._batch.join

    def joined(prompts: Any, copies: Any, dialogues: Any) -> torch.Tensor:
        groups.append([dialogue.kept > 0 for dialogue in dialogues])
        return join(prompts, copies, dialogues)

    scheduler._batch.join = joined  # type: ignore[method-assign]
    for listener in ready_together(scheduler, *[("where", 1, png(colour)) for colour in (RED, RED, BLUE, RED)]):
        assert listener.texts()
    scheduler.close(grace_s=0)
    assert groups == [[True, True], [False], [True]]


def test_those_who_run_take_a_step_between_two_groups_that_are_read(assistant: Assistant) -> None:
    scheduler = Scheduler(assistant, ServerLimits(prefill_tokens=1))
    done: list[str] = []
    join, step = scheduler._batch.join, scheduler._batch.step
    scheduler._batch.join = lambda *given: done.append("join") or join(*given)  # type: ignore
    scheduler._batch.step = lambda *given: done.append("step") or step(*given)  # type: ignore
    for listener in ready_together(scheduler, ("what", 12), ("where", 3), ("which", 3), ("a", 3)):
        assert listener.texts()
    scheduler.close(grace_s=0)
    assert done[:8] == ["join", "step"] * 4


def test_room_is_kept_for_the_answers_to_come(assistant: Assistant) -> None:
    scheduler = Scheduler(assistant, ServerLimits(places=200))
    seen: list[int] = []
    step = scheduler._batch.step

    def stepped(tokens: torch.Tensor) -> torch.Tensor:
        logits = step(tokens)
        seen.append(scheduler._batch.places)
        return logits

    scheduler._batch.step = stepped  # type: ignore[method-assign]
    for listener in ready_together(scheduler, *[("a", 50)] * 5):
        assert listener.texts()
    scheduler.close(grace_s=0)
    assert max(seen) <= 200


def test_pictures_share_the_pixels_of_their_request(assistant: Assistant) -> None:
    scheduler = Scheduler(assistant, ServerLimits(pixels=3000))
    assert send(scheduler, asked("what", png(RED), png(BLUE)), max_tokens=1)[0].texts()
    with pytest.raises(InputError, match="together more than 3,000 pixels"):
        send(scheduler, asked("what", png(RED), png(BLUE), png(GREEN)), max_tokens=1)[0].texts()
    scheduler.close(grace_s=0)


def test_a_question_that_has_been_prepared_holds_no_files(scheduler: Scheduler) -> None:
    listener, ticket = send(scheduler, asked("what", png(RED)), max_tokens=1)
    assert listener.texts()
    assert not ticket.messages


def test_who_closes_again_shortens_the_wait(assistant: Assistant) -> None:
    scheduler = Scheduler(assistant)
    blocked = threading.Event()
    scheduler.run(lambda: blocked.wait(60))
    listener, _ = send(scheduler, asked("what"))
    closing = [threading.Thread(target=scheduler.close, args=(grace_s,)) for grace_s in (600, 0)]
    for thread in closing:
        thread.start()
    with pytest.raises(StoppingError):
        listener.texts()
    blocked.set()
    for thread in closing:
        thread.join(60)
        assert not thread.is_alive()


def test_a_job_that_nobody_waits_for_any_more_does_not_harm_the_end(assistant: Assistant) -> None:
    scheduler = Scheduler(assistant)
    begun, blocked = threading.Event(), threading.Event()
    scheduler.run(lambda: begun.set() or blocked.wait(60))
    assert begun.wait(60)
    left, waited_for = scheduler.run(int), scheduler.run(int)
    left.cancel()
    closing = threading.Thread(target=scheduler.close, args=(0,))
    closing.start()
    with scheduler._changed:
        assert scheduler._changed.wait_for(lambda: scheduler._stopped, timeout=60)
    blocked.set()
    closing.join(60)
    with pytest.raises(StoppingError):
        waited_for.result(60)
