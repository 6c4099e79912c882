"""Files and a question become text; pictures are encoded once; mistakes are one line."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus import BLUE, GREEN, RED, red_blue, video
from PIL import Image
from tiny import tiny_model, tiny_processor

from llava_mini import Assistant
from llava_mini import assistant as assistant_file
from llava_mini.assistant import MAX_FILES
from llava_mini.errors import InputError, LlavaMiniError, MediaError
from llava_mini.inputs.media import FrameSampling, Video
from llava_mini.reply import Answer, Sampling

SHORT = Sampling(max_new_tokens=6)


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
def encoded(assistant: Assistant) -> Iterator[list[int]]:
    """How many pictures each run of the vision tower saw."""
    runs: list[int] = []
    assistant.kept.clear()
    assistant.openings.clear()
    hook = assistant.model.model.vision_tower.register_forward_hook(lambda _, inputs, __: runs.append(len(inputs[0])))
    yield runs
    hook.remove()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(video([RED] * 8 + [GREEN] * 8 + [BLUE] * 8))
    return path


def plain(colour: tuple[int, int, int] = RED) -> Image.Image:
    return Image.new("RGB", (50, 40), colour)


def test_an_answer_tells_what_it_cost(assistant: Assistant, clip: Path) -> None:
    answer = assistant.ask("What is this?", plain(), sampling=SHORT)
    prompt = assistant.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}],
        add_generation_prompt=True,
    )
    assert isinstance(answer, Answer)
    assert str(answer) == answer.text
    assert answer.text
    assert answer.vision_tokens == 1
    assert answer.prompt_tokens == len(assistant.processor.tokenizer(prompt)["input_ids"])
    assert answer.seconds_to_first_token > 0
    assert answer.tokens_per_second > 0
    assert answer.model == "tiny"
    assert assistant.ask("What is this?", sampling=SHORT).vision_tokens == 0
    assert assistant.ask("What is this?", clip, sampling=SHORT).vision_tokens == 3
    both = assistant.ask("What is this?", plain(), clip, red_blue(), sampling=SHORT)
    assert both.vision_tokens == 5
    assert make(compression_size=2).ask("What?", plain(), sampling=SHORT).vision_tokens == 4


def test_an_answer_is_what_generate_says(assistant: Assistant) -> None:
    inputs = assistant.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": plain()}, {"type": "text", "text": "What is this?"}]}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
    )
    out = assistant.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    expected = assistant.processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert assistant.ask("What is this?", plain(), sampling=SHORT).text == expected.strip()


def test_the_pieces_of_a_stream_are_the_answer(assistant: Assistant) -> None:
    reply = assistant.stream("What is this?", plain(), sampling=SHORT)
    with pytest.raises(InputError, match="the reply has not been read to its end"):
        _ = reply.answer
    pieces = list(reply)
    assert "".join(pieces).strip() == reply.answer.text
    assert reply.answer.text == assistant.ask("What is this?", plain(), sampling=SHORT).text


def test_a_chat_of_three_turns_encodes_its_pictures_once(assistant: Assistant, clip: Path, encoded: list[int]) -> None:
    chat = assistant.chat(plain(), clip)
    answers = [chat.ask(words, sampling=SHORT) for words in ("What is this?", "What colour?", "How many are there?")]
    assert sum(encoded) == 4
    assert [answer.vision_tokens for answer in answers] == [4, 4, 4]
    assert answers[0].prompt_tokens < answers[1].prompt_tokens < answers[2].prompt_tokens
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 3


def test_a_chat_answers_what_a_fresh_conversation_would(assistant: Assistant) -> None:
    chat = assistant.chat(plain())
    for words in ("What is this?", "What colour?", "How many are there?"):
        said = chat.ask(words, sampling=SHORT).text
        inputs = assistant.processor.apply_chat_template(
            chat.messages[:-1], tokenize=True, return_dict=True, add_generation_prompt=True
        )
        out = assistant.model.generate(**inputs, max_new_tokens=6, do_sample=False)
        fresh = assistant.processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert said == fresh.strip()


def test_the_same_seed_gives_the_same_answer_and_leaves_the_others_dice_alone(assistant: Assistant) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)

    def sampled(seed: int) -> str:
        sampling = Sampling(max_new_tokens=6, temperature=2.0, seed=seed)
        return assistant.ask("What is this?", plain(), sampling=sampling).text

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1
    assert torch.equal(torch.rand(1), expected)


def test_closing_a_stream_stops_the_generation_and_keeps_the_chat_usable(assistant: Assistant) -> None:
    before = set(threading.enumerate())
    chat = assistant.chat(plain())
    reply = iter(chat.stream("What is this?", sampling=Sampling(max_new_tokens=200)))
    next(reply)
    reply.close()  # type: ignore[attr-defined]
    assert not set(threading.enumerate()) - before
    assert not chat.messages
    assert chat.ask("What is this?", sampling=SHORT).vision_tokens == 1


def test_a_failure_while_generating_reaches_the_reader(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(assistant.model, "generate", broken)
    with pytest.raises(MemoryError, match="no room"):
        assistant.ask("What is this?", plain())


def one_line(error: pytest.ExceptionInfo[LlavaMiniError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_question_and_files_that_cannot_be_taken_are_refused(assistant: Assistant, tmp_path: Path) -> None:
    for words in ("", "  \n"):
        with pytest.raises(InputError) as empty:
            assistant.ask(words, plain())
        assert one_line(empty) == "the question is empty; type what you want to know"
    with pytest.raises(InputError) as many:
        assistant.ask("What?", *[plain()] * (MAX_FILES + 1))
    assert one_line(many) == "17 files were given; at most 16 are taken at once"
    with pytest.raises(MediaError) as missing:
        assistant.ask("What?", tmp_path / "no\nfile.png")
    assert "no such file" in one_line(missing)


def test_a_video_too_long_for_the_context_is_refused_before_it_is_encoded(
    assistant: Assistant, clip: Path, encoded: list[int]
) -> None:
    with pytest.raises(InputError) as caught:
        assistant.ask("What?", *[clip] * 16, sampling=Sampling(max_new_tokens=140))
    words = one_line(caught)
    assert "(48 pictures or frames)" in words
    assert words.endswith("the model's context of 256 takes at most 8 frames")
    assert not encoded


def test_a_long_question_is_refused_in_words_about_the_question(assistant: Assistant) -> None:
    with pytest.raises(InputError) as caught:
        assistant.ask("What is this? " * 200)
    words = one_line(caught)
    assert words.endswith("with an answer of 64 the model's context of 256 takes at most 192 tokens")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"temperature": -1.0}, "temperature is -1.0; it must be between 0 and 10"),
        ({"temperature": float("nan")}, "temperature is nan; it must be between 0 and 10"),
        ({"seed": -1}, "seed is -1; it must be between 0 and 2⁶³ − 1"),
        ({"seed": 2**64}, f"seed is {2**64}; it must be between 0 and 2⁶³ − 1"),
    ],
)
def test_a_sampling_without_sense_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        Sampling(**fields)
    assert str(caught.value) == words


def test_a_video_too_long_to_be_kept_is_read_anew_and_answers_the_same(
    assistant: Assistant, clip: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = ("What is this?", "What colour is it?")
    kept = assistant.chat(clip)
    expected = [kept.ask(question, sampling=SHORT).text for question in questions]
    assert encoded == [3]
    monkeypatch.setattr(assistant_file, "kept_bytes", lambda *_: 2**40)  # no frame can be kept
    monkeypatch.setattr(assistant_file, "frames_per_chunk", lambda *_: 2)
    anew = assistant.chat(clip)
    assert [anew.ask(question, sampling=SHORT).text for question in questions] == expected
    assert encoded == [3, 2, 1, 2, 1]


def test_frames_are_chosen_and_counted_as_asked(assistant: Assistant, clip: Path) -> None:
    read: list[int] = []
    chat = assistant.chat(clip, frames=FrameSampling(fps=2.0, start_s=1.0), on_frames=read.append)
    assert (chat.frame_count, read) == (4, [])
    assert chat.ask("What is this?", sampling=SHORT).vision_tokens == sum(read) == 4


def test_an_answer_tells_which_moments_it_attended_to(clip: Path) -> None:
    assistant = make(compression_size=2)
    answer = assistant.ask("What is this?", plain(), clip, sampling=SHORT, attention=True)
    assert [(frame.file, frame.time_s) for frame in answer.frames] == [(str(clip), t) for t in (0.5, 1.5, 2.5)]
    assert all(0 < frame.attention < 1 for frame in answer.frames)
    assert sum(frame.attention for frame in answer.frames) < 1
    assert answer.text == assistant.ask("What is this?", plain(), clip, sampling=SHORT).text
    assert assistant.ask("What is this?", clip, sampling=SHORT).frames == ()
    assert assistant.ask("What is this?", plain(), sampling=SHORT, attention=True).frames == ()


def test_a_second_question_while_one_is_answered_is_refused(assistant: Assistant) -> None:
    chat = assistant.chat(plain())
    first = iter(chat.stream("What is this?", sampling=SHORT))
    next(first)
    with pytest.raises(InputError, match="another question of this conversation is being answered"):
        chat.ask("What colour is it?", sampling=SHORT)
    first.close()  # type: ignore[attr-defined]
    assert chat.ask("What colour is it?", sampling=SHORT).text


def test_a_reader_who_stops_while_frames_are_read_leaves_no_thread(clip: Path) -> None:
    assistant = make()

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    threads = threading.active_count()
    chat = assistant.chat(clip, on_frames=stop)
    with pytest.raises(KeyboardInterrupt):
        chat.ask("What is this?", sampling=SHORT)
    assert threading.active_count() == threads


def test_tiles_can_be_asked_for(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    tiny_processor(model.config).save_pretrained(tmp_path)
    assistant = Assistant.load(tmp_path, hd=True)
    runs: list[int] = []
    assistant.model.model.vision_tower.register_forward_hook(lambda _, inputs, __: runs.append(len(inputs[0])))
    answer = assistant.ask("What is this?", plain(), sampling=SHORT)
    assert (answer.vision_tokens, runs) == (1, [5])
    assert Assistant.load(tmp_path).model.config.tiles == 1


def test_a_video_longer_than_the_context_names_the_frames_that_fit_and_the_option(
    assistant: Assistant, clip: Path
) -> None:
    with pytest.raises(InputError) as caught:
        assistant.ask("What is this?", clip, sampling=SHORT, frames=FrameSampling(fps=100.0))
    words = one_line(caught)
    assert "(300 pictures or frames)" in words
    most = int(words.split("takes at most ")[1].split(" frames")[0])
    assert words.endswith(f"set max_frames (--max-frames) to {most} or less")
    fitting = FrameSampling(fps=100.0, max_frames=most)
    assert assistant.ask("What is this?", clip, sampling=SHORT, frames=fitting).vision_tokens == most
    with pytest.raises(InputError):
        assistant.ask("What is this?", clip, sampling=SHORT, frames=FrameSampling(100.0, most + 1))


@pytest.mark.parametrize("given", [None, [], 3])
def test_what_is_no_file_is_refused(assistant: Assistant, given: Any) -> None:
    with pytest.raises(InputError) as caught:
        assistant.ask("What is this?", given)
    assert "must be given, not a" in one_line(caught)


def test_a_models_own_generation_settings_do_not_turn_a_stream_into_something_else() -> None:
    assistant = make()
    expected = assistant.ask("What is this?", plain(), sampling=SHORT).text
    settings = assistant.model.generation_config
    settings.num_beams, settings.return_dict_in_generate, settings.cache_implementation = 3, True, "static"
    assert assistant.ask("What is this?", plain(), sampling=SHORT).text == expected


def test_a_picture_that_was_asked_about_before_is_not_encoded_again(assistant: Assistant, encoded: list[int]) -> None:
    assistant.kept.clear()
    first = assistant.ask("What is this?", plain((1, 2, 3)), sampling=SHORT)
    assert encoded == [1]
    again = assistant.ask("What is this?", plain((1, 2, 3)), sampling=SHORT)
    both = assistant.chat(plain((1, 2, 3)), plain((3, 2, 1))).ask("What is this?", sampling=SHORT)
    assert encoded == [1, 1]
    assert again.text == first.text
    assistant.kept.clear()
    anew = assistant.chat(plain((1, 2, 3)), plain((3, 2, 1))).ask("What is this?", sampling=SHORT)
    assert anew.text == both.text


def test_a_short_video_that_was_asked_about_before_is_not_encoded_again(
    assistant: Assistant, encoded: list[int], clip: Path
) -> None:
    assistant.kept.clear()
    first = assistant.ask("What is this?", clip, sampling=SHORT)
    assert sum(encoded) == 3
    assert assistant.ask("What is this?", clip.read_bytes(), sampling=SHORT).text == first.text
    assert sum(encoded) == 3  # the same bytes under another name
    assistant.ask("What is this?", clip, sampling=SHORT, frames=FrameSampling(max_frames=2))
    assert sum(encoded) == 5  # other moments
    one, two = Video.of([plain()] * 2), Video.of([plain(), plain(BLUE)])
    assert one.content == Video.of([plain()] * 2).content != two.content


def test_a_new_conversation_about_the_same_picture_begins_with_what_the_first_one_keeps() -> None:
    questions = ("What is this?", "What colour is the star?", "What is this?")
    expected = [make().ask(text, plain(), sampling=SHORT).text for text in questions]
    assistant, rows = make(), []
    hook = assistant.model.model.language_model.register_forward_pre_hook(
        lambda _, __, given: rows.append(given["inputs_embeds"].shape[1]), with_kwargs=True
    )
    first = []
    for text in questions:
        rows.clear()
        answer = assistant.ask(text, plain(), sampling=SHORT)
        first.append((answer.text, rows[0], answer.prompt_tokens))
    hook.remove()
    assert [text for text, _, _ in first] == expected
    assert first[0][1] == first[0][2]  # nothing was kept yet
    assert 1 < first[1][1] < first[1][2] - 3  # the words up to the picture and after it were
    assert first[2][1] < first[2][2]
    assert len(assistant.openings) == 1
    assistant.ask(questions[0], plain(BLUE), sampling=SHORT)
    assert len(assistant.openings) == 2


def test_conversations_that_begin_alike_go_apart(assistant: Assistant) -> None:
    one, other = assistant.chat(plain()), assistant.chat(plain())
    first = one.ask("What is this?", sampling=SHORT).text
    assert other.ask("What is this?", sampling=SHORT).text == first
    second = one.ask("What colour is the star?", sampling=SHORT).text
    assert other.ask("How many are there?", sampling=SHORT).text
    fresh = make().chat(plain())
    fresh.ask("What is this?", sampling=SHORT)
    assert fresh.ask("What colour is the star?", sampling=SHORT).text == second


def test_what_is_kept_of_first_questions_is_bounded_in_bytes() -> None:
    assistant = make()
    assistant.ask("What is this?", plain(), sampling=SHORT)
    size = assistant.openings.nbytes
    assert size > assistant.kept.nbytes > 0  # an opening holds its pictures, also when they are kept nowhere else
    assistant.openings.max_bytes = 2 * size
    for number in range(6):
        assistant.ask("What is this?", plain((number, 0, 0)), sampling=SHORT)
        assert assistant.openings.nbytes <= 2 * size
