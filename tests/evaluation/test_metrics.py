"""Every metric against cases reckoned by hand; each test names the definition that it restates."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_mini.evaluation import metrics
from llava_mini.evaluation.metrics import LETTERS
from llava_mini.evaluation.samples import Answered, Sample, in_units
from llava_mini.evaluation.vqa import m4c_accuracy, m4c_form, served_accuracy, vqa_accuracy


def said(
    text: str,
    *truths: str,
    kind: str = "",
    unit: str = "",
    id_: str = "",
    choices: Sequence[str] = (),
    **verdict: float,
) -> Answered:
    id_ = id_ or f"{random.Random(repr((text, truths, kind, unit))).random()}"
    return Answered(Sample(id_, "?", b"", tuple(truths), kind, unit, tuple(choices)), text, verdict)


# VQA accuracy: Antol et al., 2015, section 4, and the challenge's evaluation: the mean of min(1, matches / 3) over all
# ways to leave one of ten people out.


@pytest.mark.parametrize(("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_is_the_mean_over_nine_of_ten_people(matches: int, accuracy: float) -> None:
    # One match: left out once (0 of the others), there nine times (1/3 each): 0.9 / 3. Three: 3 · 2/3 + 7 · 1, over 10.
    people = ["red"] * matches + [f"other {number}" for number in range(10 - matches)]
    assert vqa_accuracy("red", people) == pytest.approx(accuracy)
    assert m4c_accuracy("red", people) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("answer", "person"),
    [
        ("Two", "2"),
        ("none", "0"),
        ("a red  ball", "red ball"),
        ("the ball, red", "ball red"),
        ("dont know", "don't know"),
        ("its 10,000", "its 10000"),
        ("red-white", "red white"),
        ("is it? yes!", "is it yes"),
        ("somebody'd", "somebodyd"),
        ("yall'd've", "y'all'd've"),
        ("st. louis", "st louis"),
    ],
)
def test_words_are_written_alike_before_they_are_compared(answer: str, person: str) -> None:
    people = [person] * 9 + ["something else"]
    assert vqa_accuracy(answer, people) == 1.0
    assert m4c_accuracy(answer, people) == 1.0


def test_only_one_apostrophe_is_put_back() -> None:
    assert vqa_accuracy("ow's'at", ["'ow's'at"] * 9 + ["x"]) == 1.0
    assert vqa_accuracy("owsat", ["'ow's'at"] * 9 + ["x"]) == 0.0


def test_where_all_people_agree_the_challenge_rewrites_nothing() -> None:
    assert vqa_accuracy("Yes", ["yes"] * 10) == 0.0
    assert vqa_accuracy("Yes", ["yes"] * 9 + ["no"]) == 1.0
    assert m4c_accuracy("Yes", ["yes"] * 10) == 1.0
    assert served_accuracy("Yes.", ["yes"] * 10) == 1.0  # what is submitted was rewritten before


def test_a_full_stop_between_digits_stays_and_a_comma_goes() -> None:
    assert m4c_form("$1,000.50") == "$1000.50"
    assert m4c_form("7 p.m.") == "7 pm"


def test_the_owner_s_letter_is_a_word_of_its_own() -> None:
    assert m4c_form("McDonald's") == "mcdonald 's"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.lists(st.sampled_from(["red", "Red", "the red", "blue", ""]), min_size=10, max_size=10))
def test_an_accuracy_is_a_share_and_hangs_on_no_order(answer: str, people: list[str]) -> None:
    for accuracy in (vqa_accuracy, m4c_accuracy):
        value = accuracy(answer, people)
        assert 0 <= value <= 1
        assert value == pytest.approx(accuracy(answer, people[::-1]))


def test_an_accuracy_needs_people() -> None:
    with pytest.raises(ValueError, match="at least one person"):
        vqa_accuracy("red", [])


# GQA: Hudson & Manning, 2019; LLaVA compares the lower-case word without full stops at the end.


@pytest.mark.parametrize(("answer", "right"), [("Yes", 1), ("yes.", 1), ("yes it is", 0), (" left ", 0), ("no", 0)])
def test_gqa_wants_the_very_word(answer: str, right: int) -> None:
    assert metrics.gqa_points(said(answer, "yes")) == right


# ScienceQA: Lu et al., 2022; LLaVA's reading of an answer.


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B. a dog", "B"),
        ("B a dog", ""),
        ("b", ""),
        ("C", ""),
        ("The answer is B.", "B"),
        ("The answer is A. No: The answer is B.", ""),
        ("a dog", ""),
    ],
)
def test_scienceqa_reads_a_letter_or_one_statement_of_it(answer: str, letter: str) -> None:
    assert metrics.scienceqa_letter(answer, 2) == letter


# Multiple choice (MMBench, SEED-Bench, EgoSchema): a letter, alone or before its option, or the words of one option.


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B. a dog", "B"),
        ("B) a dog", "B"),
        ("(B) a dog", "B"),
        ("Best option: (B)", "B"),
        ("A dog.", "B"),
        ("a dog", "B"),
        ("D", ""),
        ("A cat and a dog", ""),
        ("Because", ""),
        ("", ""),
    ],
)
def test_a_choice_is_read_from_its_letter_or_its_words(answer: str, letter: str) -> None:
    assert metrics.chosen_letter(answer, ["a cat", "a dog", "a bird"]) == letter


# MVBench and MLVU (Li et al., 2024, check_ans): the first word of the answer within that of "(B) option", or around it.


@pytest.mark.parametrize("answer", ["B", "b", "B.", "(B)", "(B) a dog", "(b) a dog", "(A) a cat", "C", "(C) a bird"])
def test_letters_are_read_as_mvbench_reads_them(answer: str) -> None:
    first = answer.lower().split(" ")[0]
    original = first.replace(".", "") in "(b)" or "(b)" in first
    assert (metrics.chosen_letter(answer, ["a cat", "a dog", "a bird"]) == "B") == original


def test_a_question_that_could_not_be_asked_is_never_right() -> None:
    failed = Answered(Sample("1", "?", b"", ("yes",)), "", failed=True)
    assert metrics.pope(in_units([failed]))["random recall" if failed.sample.kind else " recall"] == 0
    people = Answered(Sample("1", "?", b"", ("a",) * 10), "", failed=True)
    assert metrics.mean_points(metrics.textvqa_points)(in_units([people])) == {"accuracy": 0}


# POPE: Li et al., 2023: yes unless the first sentence has No, no or not; yes is the positive class.


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("No, there is none", "no"),
        ("There is not.", "no"),
        ("Yes. Not sure.", "yes"),
        ("", "yes"),
    ],
)
def test_pope_reads_no_from_the_words_of_the_first_sentence(answer: str, word: str) -> None:
    assert metrics.pope_word(answer) == word


def test_pope_gives_five_figures_a_split_and_the_mean_of_f1() -> None:
    # Random: 2 of 3 yes are found (one is missed), 1 of 2 no is taken for a yes: P = 2/3, R = 2/3, accuracy 3/5.
    rows = [
        said(answer, truth, kind="random", id_=f"r{number}")
        for number, (answer, truth) in enumerate(
            [("Yes", "yes"), ("Yes", "yes"), ("No", "yes"), ("Yes", "no"), ("No", "no")]
        )
    ]
    rows += [said("No", truth, kind="popular", id_=f"p{truth}") for truth in ("yes", "no")]
    scores = metrics.pope(in_units(rows))
    assert scores["random precision"] == scores["random recall"] == scores["random F1"] == pytest.approx(200 / 3)
    assert (scores["random accuracy"], scores["random yes"]) == (60, 60)
    assert (scores["popular accuracy"], scores["popular F1"], scores["popular yes"]) == (50, 0, 0)
    assert scores["F1"] == pytest.approx(100 / 3)


# MME: Fu et al., 2023: accuracy of questions and accuracy+ of pictures with both right, summed over tasks.


def test_mme_adds_the_share_of_questions_and_that_of_whole_pictures() -> None:
    def picture(task: str, name: str, *answers: str) -> list[Answered]:
        return [
            said(answer, truth, kind=task, unit=f"{task}/{name}", id_=f"{task}/{name}#{number}")
            for number, (answer, truth) in enumerate(zip(answers, ("yes", "no"), strict=True))
        ]

    rows = picture("count", "1", "Yes", "No.") + picture("count", "2", "yes", "Yes, it is")
    rows += picture("code_reasoning", "1", "maybe", "no")
    scores = metrics.mme(in_units(rows))
    assert (scores["count accuracy"], scores["count accuracy+"]) == (75, 50)
    assert (scores["perception"], scores["cognition"]) == (125, 50)


@pytest.mark.parametrize(
    ("answer", "word"), [("YES", "yes"), ("Yes, it is", "yes"), ("No.", "no"), ("I see no", "other"), ("", "other")]
)
def test_mme_reads_the_first_four_letters(answer: str, word: str) -> None:
    assert metrics.mme_word(answer) == word


# MMBench: Liu et al., 2023, section 4: circular evaluation.


def test_a_question_of_mmbench_is_right_when_it_is_right_in_every_order() -> None:
    def question(base: str, answers: str, truths: str) -> list[Answered]:
        return [
            said(answer, truth, unit=base, id_=f"{base}#{turn}", choices="wxyz")
            for turn, (answer, truth) in enumerate(zip(answers, truths, strict=True))
        ]

    scores = metrics.circular(in_units(question("1", "ABCD", "ABCD") + question("2", "AAAA", "ABCD")))
    assert (scores["accuracy"], scores["in one order"]) == (50, 100)


# Judged: Video-ChatGPT (Maaz et al., 2024), LLaVA-Bench (Liu et al., 2023), MM-Vet (Yu et al., 2023).


def test_open_answers_about_videos_have_a_share_and_a_mean_score() -> None:
    rows = [said("a", "x", id_="1", right=1, score=4), said("b", "x", id_="2", right=0, score=1)]
    assert metrics.video_qa(in_units(rows)) == {"accuracy": 50, "score": 2.5}


def test_video_chatgpt_has_the_mean_of_each_respect() -> None:
    rows = [said("a", "x", id_="1", correctness=4, detail=2, context=3), said("b", "x", id_="2", time=1)]
    assert metrics.five_scores(in_units(rows)) == {"mean": 2.5, "correctness": 4, "detail": 2, "context": 3, "time": 1}


def test_llava_bench_is_relative_to_the_reference() -> None:
    rows = [
        said("a", "x", id_="1", kind="conv", reference=8, answer=4),
        said("b", "x", id_="2", kind="detail", reference=8, answer=8),
    ]
    assert metrics.relative_score(in_units(rows)) == {"relative score": 75, "conv": 50, "detail": 100}


def test_mm_vet_counts_a_question_for_each_capability_it_needs() -> None:
    rows = [said("a", "x", id_="1", kind="know, rec", score=1.0), said("b", "x", id_="2", kind="rec", score=0.5)]
    assert metrics.by_capability(in_units(rows)) == {"score": 75, "know": 100, "rec": 75}


def test_kinds_count_alike_where_the_benchmark_says_so() -> None:
    rows = [said("A", "A", id_=f"{number}", kind="order", choices="ab") for number in range(3)]
    rows.append(said("A", "B", id_="x", kind="count", choices="ab"))
    assert metrics.mean_points(metrics.choice_points)(in_units(rows))["accuracy"] == 75
    assert metrics.mean_points(metrics.choice_points, over_kinds=True)(in_units(rows))["accuracy"] == 50


# Paired bootstrap: Efron & Tibshirani, 1993.


def test_a_bootstrap_of_pairs_sees_no_difference_where_there_is_none_and_a_clear_one_where_there_is() -> None:
    def answers(shares: str) -> list[Answered]:
        return [said(letter, "A", id_=f"{number}", choices="ab") for number, letter in enumerate(shares)]

    aggregate = metrics.mean_points(metrics.choice_points)
    same = answers("ABABABABABAB")
    assert metrics.paired_bootstrap(aggregate, "accuracy", same, same, resamples=200, seed=0) == (0, 0, 0)
    lead, low, high = metrics.paired_bootstrap(
        aggregate, "accuracy", answers("B" * 30), answers("A" * 24 + "B" * 6), resamples=500, seed=0
    )
    assert lead == 80
    assert 60 <= low < 80 < high <= 100


def test_a_sum_over_tasks_keeps_all_tasks_in_each_draw() -> None:
    rows = [
        said("yes", "yes", kind=task, unit=f"{task}{number}", id_=f"{task}{number}")
        for task in ("count", "color", "OCR")
        for number in range(2)
    ]
    found = metrics.interval(metrics.mme, "perception", in_units(rows), resamples=100, seed=0)
    assert found == (600, 600, 600)


def test_a_bootstrap_draws_whole_units() -> None:
    """Two questions of a picture that are always both right or both wrong count as one draw, not as two."""
    rows = [
        said("yes" if number % 2 else "no", "yes", kind="count", unit=f"{number}", id_=f"{number}#{turn}")
        for number in range(20)
        for turn in range(2)
    ]
    wrong = [Answered(one.sample, "no") for one in rows]
    _, low, high = metrics.paired_bootstrap(metrics.mme, "perception", wrong, rows, resamples=500, seed=0)
    # Of 20 units with one half right: a standard error of 11 points in each of the two shares, and they move together.
    assert 100 - 2 * 30 < low < 100 - 2 * 14
    assert 100 + 2 * 14 < high < 100 + 2 * 30


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40), st.integers(2, 6))
def test_any_answer_is_read_as_one_of_the_letters_or_none(answer: str, count: int) -> None:
    choices = [f"option {number}" for number in range(count)]
    assert metrics.chosen_letter(answer, choices) in ("", *LETTERS[:count])
    assert metrics.scienceqa_letter(answer, count) in ("", *LETTERS[:count])
    assert metrics.mme_word(answer) in ("yes", "no", "other")
