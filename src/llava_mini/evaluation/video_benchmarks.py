"""The paper's seven video benchmarks: how their published files are read, and what is asked."""

from collections.abc import Iterator, Sequence
from typing import Any

from llava_mini.evaluation.metrics import LETTERS
from llava_mini.evaluation.published import Published
from llava_mini.evaluation.samples import Sample

BEST_OPTION = "\nOnly give the best option."
# MVBench (Li et al., 2024): of each task the folder of its videos, and whether a question is about a part of the video.
MVBENCH: dict[str, tuple[str, bool]] = {
    "action_sequence": ("star/Charades_v1_480", True),
    "action_prediction": ("star/Charades_v1_480", True),
    "action_antonym": ("ssv2_video", False),
    "fine_grained_action": ("Moments_in_Time_Raw/videos", False),
    "unexpected_action": ("FunQA_test/test", False),
    "object_existence": ("clevrer/video_validation", False),
    "object_interaction": ("star/Charades_v1_480", True),
    "object_shuffle": ("perception/videos", False),
    "moving_direction": ("clevrer/video_validation", False),
    "action_localization": ("sta/sta_video", True),
    "scene_transition": ("scene_qa/video", False),
    "action_count": ("perception/videos", False),
    "moving_count": ("clevrer/video_validation", False),
    "moving_attribute": ("clevrer/video_validation", False),
    "state_change": ("perception/videos", False),
    "fine_grained_pose": ("nturgbd", False),
    "character_order": ("perception/videos", False),
    "egocentric_navigation": ("vlnqa", False),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", True),
    "counterfactual_inference": ("clevrer/video_validation", False),
}
MLVU = "1_plotQA 2_needle 3_ego 4_count 5_order 6_anomaly_reco 7_topic_reasoning".split()
RESPECTS = {
    "generic": ("correctness", "detail", "context"),
    "temporal": ("time",),
    "consistency": ("consistency",),
}


def zero_shot_qa(files: Published) -> Iterator[Sample]:
    """MSVD-QA, MSRVTT-QA and ActivityNet-QA, as Video-ChatGPT publishes them for open answers."""
    answers = {str(row["question_id"]): row for row in files.json("test_a.json")}
    folder = files.first("videos", "all_test", "all")
    for row in files.json("test_q.json"):
        number = str(row["question_id"])
        answer = answers[number]
        name = str(row["video_name"])
        if not files.video(folder, name).is_file() and files.video(folder, f"v_{name}").is_file():
            name = f"v_{name}"  # ActivityNet's files have it before the name of the questions
        question = row["question"] if row["question"].rstrip().endswith("?") else f"{row['question'].rstrip()}?"
        question = question[:1].upper() + question[1:]
        kind = str(answer.get("type", ""))
        fields = {"asked": question}
        yield Sample(number, question, files.video(folder, name), (str(answer["answer"]),), kind, fields=fields)


def video_chatgpt(files: Published) -> Iterator[Sample]:
    """Video-ChatGPT: generic and temporal questions, and two of each video that should get answers that agree."""
    for set_ in RESPECTS:
        for number, row in enumerate(files.json(f"{set_}_qa.json")):
            video = files.video("Test_Videos", str(row["video_name"]))
            asked = [row["Q1"], row["Q2"]] if set_ == "consistency" else [row["Q"]]
            for turn, question in enumerate(asked):
                unit = f"{set_}-{number}"
                yield Sample(
                    f"{unit}#{turn}" if len(asked) > 1 else unit,
                    question,
                    video,
                    (row["A"],),
                    set_,
                    unit if len(asked) > 1 else "",
                    fields={"asked": question},
                )


def mvbench(files: Published) -> Iterator[Sample]:
    """MVBench: 20 tasks of 200 questions."""
    for task, (folder, part) in MVBENCH.items():
        for number, row in enumerate(files.json(f"json/{task}.json")):
            clip = (float(row["start"]), float(row["end"])) if part else None
            video = files.media("video", folder, row["video"])
            later = files.media(
                "video", "data0613", folder, row["video"]
            )  # videos that were added to the first archives
            video = later if not video.exists() and later.exists() else video
            options = row["candidates"]
            yield _choice(f"{task}-{number}", row["question"], options, options.index(row["answer"]), video, task, clip)


def mlvu(files: Published) -> Iterator[Sample]:
    """MLVU: the seven multiple-choice tasks of dev."""
    for task in MLVU:
        for number, row in enumerate(files.json(f"json/{task}.json")):
            video = files.media("video", task, row["video"])
            name = str(row.get("question_type") or task.partition("_")[2])
            options = row["candidates"]
            yield _choice(f"{task}-{number}", row["question"], options, options.index(row["answer"]), video, name)


def egoschema(files: Published) -> Iterator[Sample]:
    """EgoSchema: all questions, or the subset whose answers are published where they alone are there."""
    answers = files.json("subset_answers.json") if files.has("subset_answers.json") else {}
    for row in files.json("questions.json"):
        number = row["q_uid"]
        options = [row[f"option {place}"] for place in range(5)]
        video = files.video("videos", number)
        kind = "subset" if number in answers else "server"
        yield _choice(number, row["question"], options, answers.get(number), video, kind if answers else "")


def _choice(
    id_: str,
    question: str,
    options: Sequence[str],
    truth: int | None,
    video: Any,
    kind: str,
    clip_s: tuple[float, float] | None = None,
) -> Sample:
    listed = "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options))
    words = f"Question: {question}\nOptions:\n{listed}{BEST_OPTION}"
    truths = () if truth is None else (LETTERS[: len(options)][truth],)
    return Sample(id_, words, video, truths, kind, choices=tuple(options), clip_s=clip_s)
