"""The paper's eighteen benchmarks as rows of a table: what is read, how it is asked, how it is scored, who said what.

Sources: LLaVA-Mini, Table 1 (pictures) and section 5.2 (videos), for the benchmarks and their scores; of each
benchmark's own paper the metric, named where it is computed (`metrics`, `vqa`).
"""

import csv
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llava_mini.errors import ConfigError, DataError
from llava_mini.evaluation import image_benchmarks as images
from llava_mini.evaluation import metrics, submissions
from llava_mini.evaluation import video_benchmarks as videos
from llava_mini.evaluation.judge import FIVE_RESPECTS, LLAVA_BENCH, MM_VET, VIDEO_QA, Ask
from llava_mini.evaluation.metrics import Aggregate, Points
from llava_mini.evaluation.published import Published
from llava_mini.evaluation.samples import Sample, Unit
from llava_mini.evaluation.submissions import Submission

LLAVA, MINI, MINI_HD, MINI_LLAMA = "LLaVA-v1.5-7B", "Vicuna-7B", "Vicuna-7B HD", "Llama-3.1-8B"


@dataclass(frozen=True)
class Benchmark:
    """One row."""

    name: str
    """How the command line calls it, and its folder below `--data`."""
    title: str
    media: Literal["pictures", "videos"]
    read: Callable[[Published], Iterator[Sample]]
    points: Points
    """What one answer is worth, from 0 to 1."""
    aggregate: Aggregate
    headline: str
    """The one of its scores that papers give."""
    layout: tuple[str, ...]
    """Files and folders below its folder; "|" between two that do."""
    page: str
    """Name of the page where they are to be had."""
    licence: str
    paper: Mapping[str, float] = field(default_factory=dict)
    """Scores of the headline in the paper, by model."""
    asks: Callable[[Unit], Iterator[Ask]] | None = None
    """What a judge is asked about the answers of a unit."""
    submission: Submission | None = None
    """How answers are written for a server, where it keeps the truth."""
    always_submits: bool = False
    """Whether a server wants the answers even where the truth is published."""
    max_new_tokens: int = 16

    def samples(self, data: Path) -> list[Sample]:
        """Read the questions below a folder of benchmarks.

        Raises:
            DataError: for a missing file, with where to get it; for records that are not as published; for a name that
                leads out of the folder; for two questions of one id.
        """
        root = data / self.name
        files = Published(root, self.title, self.page)
        if not root.is_dir():
            raise DataError(f"{self.title}: there is no folder {root}; get {', '.join(self.layout)} from {self.page}")
        samples: dict[str, Sample] = {}
        try:
            for sample in self.read(files):
                " ".join([sample.id, sample.question, *sample.truths]).encode()  # half a character is an error
                if sample.id in samples:
                    raise DataError(f"{self.title}: two questions have the id {sample.id!r}")
                samples[sample.id] = sample
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OSError, csv.Error) as error:
            what = f"{type(error).__name__} {error}"
            raise DataError(
                f"{self.title}: after {len(samples)} questions a record is not as published ({what})"
            ) from error
        if not samples:
            raise DataError(f"{self.title}: {root} holds no question")
        return list(samples.values())

    def check_media(self, samples: Sequence[Sample]) -> str:
        """Return a note about pictures and videos that are not there, "" where all are.

        Raises:
            DataError: when none is.
        """
        paths = {sample.source for sample in samples if isinstance(sample.source, Path)}
        missing = sorted(path for path in paths if not path.exists())
        if not missing:
            return ""
        told = f"{self.title}: {len(missing)} of {len(paths)} {self.media} are missing, the first {missing[0]}"
        if len(missing) == len(paths):
            raise DataError(f"{told}; get them from {self.page}")
        return f"{told}; their questions count as wrong"


def _scores(llava: float, mini: float, hd: float, llama: float) -> dict[str, float]:
    return {LLAVA: llava, MINI: mini, MINI_HD: hd, MINI_LLAMA: llama}


_OPEN = 1024
_ZERO_SHOT = ("test_q.json", "test_a.json", "videos/")
_JUDGED = metrics.verdict_points
_CHOICE = metrics.mean_points(metrics.choice_points)

BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        "vqav2",
        "VQAv2",
        "pictures",
        images.vqav2,
        metrics.vqa_points,
        metrics.mean_points(metrics.vqa_points),
        "accuracy",
        (
            "v2_OpenEnded_mscoco_test-dev2015_questions.json and test2015/ | "
            "v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json and val2014/",
        ),
        "visualqa.org, Download",
        "questions CC BY 4.0; COCO pictures, Flickr terms",
        _scores(78.5, 77.6, 78.9, 79.0),
        submission=submissions.vqav2,
    ),
    Benchmark(
        "gqa",
        "GQA",
        "pictures",
        images.gqa,
        metrics.gqa_points,
        metrics.mean_points(metrics.gqa_points),
        "accuracy",
        ("testdev_balanced_questions.json", "images/"),
        "GQA, Stanford: Download",
        "CC BY 4.0",
        _scores(62.0, 60.9, 61.8, 61.3),
    ),
    Benchmark(
        "vizwiz",
        "VizWiz",
        "pictures",
        images.vizwiz,
        metrics.vqa_points,
        metrics.mean_points(metrics.vqa_points),
        "accuracy",
        ("test.json and test/ | val.json and val/",),
        "vizwiz.org, Visual Question Answering",
        "CC BY 4.0",
        _scores(50.0, 56.2, 58.5, 57.4),
        submission=submissions.vizwiz,
    ),
    Benchmark(
        "scienceqa",
        "ScienceQA-IMG",
        "pictures",
        images.scienceqa,
        metrics.scienceqa_points,
        metrics.mean_points(metrics.scienceqa_points),
        "accuracy",
        ("problems.json", "pid_splits.json", "images/test/"),
        "scienceqa.github.io",
        "CC BY-NC-SA 4.0",
        _scores(66.8, 70.4, 69.7, 83.1),
    ),
    Benchmark(
        "textvqa",
        "TextVQA",
        "pictures",
        images.textvqa,
        metrics.textvqa_points,
        metrics.mean_points(metrics.textvqa_points),
        "accuracy",
        ("TextVQA_0.5.1_val.json", "TextVQA_Rosetta_OCR_v0.2_val.json", "train_images/"),
        "textvqa.org, Dataset",
        "CC BY 4.0; OpenImages pictures CC BY 2.0",
        _scores(58.2, 57.0, 59.1, 58.5),
    ),
    Benchmark(
        "pope",
        "POPE",
        "pictures",
        images.pope,
        metrics.pope_points,
        metrics.pope,
        "F1",
        ("coco/coco_pope_adversarial.json", "coco/coco_pope_popular.json", "coco/coco_pope_random.json", "val2014/"),
        "POPE on GitHub (RUCAIBox), output/coco",
        "MIT; COCO pictures, Flickr terms",
        _scores(85.9, 84.4, 85.3, 85.3),
    ),
    Benchmark(
        "mme",
        "MME",
        "pictures",
        images.mme,
        metrics.mme_points,
        metrics.mme,
        "perception",
        ("existence/ … code_reasoning/, or the same in MME_Benchmark_release_version/",),
        "MME on GitHub (Awesome-Multimodal-Large-Language-Models), on request",
        "for research only",
        _scores(1510.7, 1466.0, 1476.8, 1522.7),
    ),
    Benchmark(
        "mmbench",
        "MMBench",
        "pictures",
        images.mmbench,
        metrics.choice_points,
        metrics.circular,
        "accuracy",
        ("mmbench_dev_20230712.tsv | MMBench_DEV_EN.tsv",),
        "MMBench on GitHub (open-compass)",
        "Apache-2.0; pictures of many sources",
        _scores(64.3, 65.6, 67.5, 71.6),
        submission=submissions.mmbench,
        always_submits=True,
    ),
    Benchmark(
        "mmbench_cn",
        "MMBench-CN",
        "pictures",
        images.mmbench_cn,
        metrics.choice_points,
        metrics.circular,
        "accuracy",
        ("mmbench_dev_cn_20231003.tsv | MMBench_DEV_CN.tsv",),
        "MMBench on GitHub (open-compass)",
        "Apache-2.0; pictures of many sources",
        submission=submissions.mmbench,
        always_submits=True,
    ),
    Benchmark(
        "seed_bench",
        "SEED-Bench",
        "pictures",
        images.seed_bench,
        metrics.choice_points,
        _CHOICE,
        "accuracy",
        ("SEED-Bench.json", "SEED-Bench-image/", "SEED-Bench-video-image/", "llava-seed-bench.jsonl"),
        "SEED-Bench on Hugging Face (AILab-CVC); llava-seed-bench.jsonl and the videos' frames: LLaVA's Evaluation.md",
        "CC BY-NC 4.0",
        _scores(58.6, 58.5, 60.2, 63.0),
    ),
    Benchmark(
        "llava_bench",
        "LLaVA-Bench-in-the-Wild",
        "pictures",
        images.llava_bench,
        _JUDGED("answer", 10),
        metrics.relative_score,
        "relative score",
        ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl", "images/"),
        "LLaVA-Bench-in-the-Wild on Hugging Face (liuhaotian)",
        "none stated",
        _scores(63.4, 68.9, 69.3, 70.2),
        asks=LLAVA_BENCH,
        max_new_tokens=_OPEN,
    ),
    Benchmark(
        "mm_vet",
        "MM-Vet",
        "pictures",
        images.mm_vet,
        _JUDGED("score"),
        metrics.by_capability,
        "score",
        ("mm-vet.json", "images/"),
        "MM-Vet on GitHub (yuweihao), mm-vet.zip",
        "Apache-2.0; none stated for the pictures",
        _scores(30.5, 36.6, 33.9, 37.2),
        asks=MM_VET,
        submission=submissions.mm_vet,
        always_submits=True,
        max_new_tokens=_OPEN,
    ),
    *(
        Benchmark(
            name,
            title,
            "videos",
            videos.zero_shot_qa,
            _JUDGED("right"),
            metrics.video_qa,
            "accuracy",
            layout,
            f"Video-ChatGPT or Video-LLaVA on GitHub, zero-shot question answering: {folder}",
            licence,
            {MINI: score},
            asks=VIDEO_QA,
            max_new_tokens=_OPEN,
        )
        for name, title, folder, layout, licence, score in (
            ("msvd_qa", "MSVD-QA", "MSVD_Zero_Shot_QA", _ZERO_SHOT, "none stated", 70.9),
            ("msrvtt_qa", "MSRVTT-QA", "MSRVTT_Zero_Shot_QA", (*_ZERO_SHOT[:2], "all/"), "none stated", 59.5),
            (
                "activitynet_qa",
                "ActivityNet-QA",
                "Activitynet_Zero_Shot_QA",
                (*_ZERO_SHOT[:2], "all_test/"),
                "Apache-2.0; videos of YouTube",
                53.5,
            ),
        )
    ),
    Benchmark(
        "video_chatgpt",
        "Video-ChatGPT",
        "videos",
        videos.video_chatgpt,
        lambda one: sum(one.verdict.values()) / (5 * len(one.verdict) or 1),
        metrics.five_scores,
        "mean",
        ("generic_qa.json", "temporal_qa.json", "consistency_qa.json", "Test_Videos/"),
        "Video-ChatGPT on GitHub (mbzuai-oryx), quantitative evaluation",
        "CC BY-SA 4.0; videos of ActivityNet",
        {MINI: round((2.97 + 2.99 + 3.61 + 2.48 + 2.67) / 5, 3)},
        asks=FIVE_RESPECTS,
        max_new_tokens=_OPEN,
    ),
    Benchmark(
        "mvbench",
        "MVBench",
        "videos",
        videos.mvbench,
        metrics.choice_points,
        _CHOICE,
        "accuracy",
        (
            "json/action_sequence.json … json/counterfactual_inference.json",
            "video/star/ … video/tvqa/ (and video/data0613/, as unpacked)",
            "video/nturgbd/, which NTU gives on request",
        ),
        "MVBench on Hugging Face (OpenGVLab)",
        "MIT; videos under their sources' terms",
        {MINI: 44.5},
    ),
    Benchmark(
        "mlvu",
        "MLVU",
        "videos",
        videos.mlvu,
        metrics.choice_points,
        metrics.mean_points(metrics.choice_points, over_kinds=True),
        "accuracy",
        ("json/1_plotQA.json … json/7_topic_reasoning.json", "video/1_plotQA/ … video/7_topic_reasoning/"),
        "MLVU on Hugging Face (dev)",
        "CC BY-NC-SA 4.0",
        {MINI: 42.8},
    ),
    Benchmark(
        "egoschema",
        "EgoSchema",
        "videos",
        videos.egoschema,
        metrics.choice_points,
        _CHOICE,
        "accuracy",
        ("questions.json", "subset_answers.json", "videos/"),
        "EgoSchema on GitHub",
        "Ego4D licence",
        {MINI: 51.2},
        submission=submissions.egoschema,
    ),
)


def find_benchmark(name: str, suites: Sequence[str] = ()) -> Benchmark:
    """Return a row by name.

    Args:
        suites: made suites that might have been meant.

    Raises:
        ConfigError: when there is none.
    """
    names = [row.name for row in BENCHMARKS]
    if name not in names:
        near = difflib.get_close_matches(name, [*names, *suites], n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        made = f"; made suites: {', '.join(suites)}" if suites else ""
        raise ConfigError(f"no benchmark is called {name!r}{meant} (there are {', '.join(names)}{made})")
    return BENCHMARKS[names.index(name)]
