"""Made videos: the same seed draws the same video, and a question alone does not give its answer away."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from cutout_library import library as cutout_library

from llava_mini.data.scenes import SIDE, SceneLibrary
from llava_mini.data.videos import MadeVideo, draw_video


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SceneLibrary:
    return cutout_library(tmp_path_factory.mktemp("cutouts"))


@pytest.fixture(scope="module")
def videos(library: SceneLibrary) -> list[MadeVideo]:
    return [draw_video(seed, library) for seed in range(400)]


def test_a_seed_always_draws_the_same_video(library: SceneLibrary, videos: list[MadeVideo]) -> None:
    again = draw_video(7, SceneLibrary(library.trained))
    assert [f.tobytes() for f in again.frames] == [f.tobytes() for f in videos[7].frames]
    assert again.questions == videos[7].questions


def test_videos_have_three_to_six_square_frames_and_questions(videos: list[MadeVideo]) -> None:
    assert {len(video.frames) for video in videos} == {3, 4, 5, 6}
    assert all(frame.size == (SIDE, SIDE) for video in videos for frame in video.frames)
    assert all(video.questions for video in videos)
    assert {video.kind for video in videos} == {"sequence", "motion", "change", "number"}


def test_what_is_said_to_move_or_change_does_so(videos: list[MadeVideo]) -> None:
    moved: dict[str, list[float]] = {"yes": [], "no": []}
    for video in videos:
        first, last = (np.asarray(frame, dtype=float) for frame in (video.frames[0], video.frames[-1]))
        coloured = np.abs(first.mean(axis=(0, 1)) - last.mean(axis=(0, 1))).max()
        for question in video.questions:
            answer = question.accepted[0]
            if question.kind == "change" and answer in moved:
                assert (coloured > 1.5) == (answer == "yes"), question
            if question.kind == "motion" and answer in moved:  # a thing at rest trembles at its edges
                moved[answer].append(float((np.abs(first - last).max(axis=2) > 40).mean()))
    assert np.median(moved["yes"]) > 3 * np.median(moved["no"])


def test_no_answer_is_much_more_frequent_than_the_others_of_its_kind(videos: list[MadeVideo]) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for video in videos:
        for question in video.questions:
            answer = question.accepted[0]
            answers[f"{question.kind} {'?' if answer in ('yes', 'no') else ''}"][answer] += 1
    for kind, counts in answers.items():
        share = max(counts.values()) / counts.total()
        assert share < (0.65 if len(counts) == 2 else 0.5), (kind, counts)


def test_every_answer_is_right_by_its_own_rule(videos: list[MadeVideo]) -> None:
    from llava_mini.data.questions import is_correct

    for video in videos:
        for question in video.questions:
            assert is_correct(question, question.answer), question
