"""Open answers are scored by a judge: a language model at any OpenAI-compatible address.

The prompts are ours and have a version; the papers' judges were GPT-3.5 and GPT-4 of their days, with other prompts. So
these scores compare with each other, and not with the papers': every result says who judged.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import requests
from tqdm import tqdm

from llava_mini.errors import DataError, InputError, JudgeError
from llava_mini.evaluation.samples import Answered, Unit
from llava_mini.lines import mend, read_whole_lines

PROMPTS_VERSION = 1
"""Of all prompts below; scores of two versions do not compare."""
_FORM = "Reply with one JSON object and nothing else: {%s}."
_VIDEO_QA = """You grade a model's answer to a question about a video. You see the question, the right answer and the \
model's answer. Another wording, a synonym or a more exact term that means the same is right; an answer that \
contradicts the right one, leaves it out or hedges between several is wrong."""
_RESPECTS = {
    "correctness": "how far the answer's facts agree with the video as the right answer tells it, nothing invented",
    "detail": "how complete and how specific the answer is: does it name all main points of the right answer, and not \
in general words only",
    "context": "how well the answer grasps what the video as a whole is about, as the right answer tells it",
    "time": "how well the answer keeps the order in which things happen in the video, as the right answer tells it",
    "consistency": "how far two answers to two wordings of one question agree, with each other and with the right one",
}
_RESPECT = """You grade a model's answer to a question about a video. You see the question, the right answer, and the \
model's answer. Judge one thing only: {respect}. 0 is not at all, 5 is fully."""
_LLAVA_BENCH = """You grade two answers to a question about a picture. You do not see the picture; a description of it \
by people is given. Judge how helpful, relevant, accurate and detailed each answer is, from 1 (worst) to 10 (best), \
whatever its length and its place."""
_MM_VET = """You grade a model's answer to a question about a picture. You see the question, the right answer and the \
model's answer. In the right answer <AND> joins parts that must all be there, and <OR> parts of which one is enough. \
Give the share of it that the model's answer gets right, from 0.0 to 1.0 in steps of 0.1."""


@dataclass(frozen=True)
class Ask:
    """One thing that a judge is asked."""

    about: str
    """Id of the sample whose verdict it goes into."""
    task: str
    """What is to be judged, and how."""
    shown: str
    """What is judged."""
    scores: Mapping[str, tuple[float, float]]
    """Names of the scores that are wanted, with the least and the most each can be."""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation that is sent."""
        form = _FORM % ", ".join(
            f'"{name}": a number from {low:g} to {high:g}' for name, (low, high) in self.scores.items()
        )
        return [{"role": "system", "content": f"{self.task}\n{form}"}, {"role": "user", "content": self.shown}]


def VIDEO_QA(unit: Unit) -> Iterator[Ask]:  # noqa: N802 - a row of the table of prompts
    """Ask whether each answer is right, and how well it fits from 0 to 5."""
    for one in unit:
        yield Ask(one.sample.id, _VIDEO_QA, _shown(one), {"right": (0, 1), "score": (0, 5)})


def FIVE_RESPECTS(unit: Unit) -> Iterator[Ask]:  # noqa: N802
    """Ask for the respects that the set of a question is scored in; both answers of a pair are judged together."""
    from llava_mini.evaluation.video_benchmarks import RESPECTS

    first = unit[0]
    for respect in RESPECTS[first.sample.kind]:
        task = _RESPECT.format(respect=_RESPECTS[respect])
        shown = "\n\n".join(_shown(one) for one in unit)
        yield Ask(first.sample.id, task, shown, {respect: (0, 5)})


def LLAVA_BENCH(unit: Unit) -> Iterator[Ask]:  # noqa: N802
    """Ask for scores of GPT-4's published answer, which knew the description, and of the model's."""
    for one in unit:
        fields = one.sample.fields
        shown = (
            f"Description:\n{fields['scene']}\n\nQuestion:\n{fields['asked']}\n\n"
            f"First answer:\n{fields['reference']}\n\nSecond answer:\n{one.answer}"
        )
        task = f'{_LLAVA_BENCH} "reference" is the score of the first answer, "answer" that of the second.'
        yield Ask(one.sample.id, task, shown, {"reference": (1, 10), "answer": (1, 10)})


def MM_VET(unit: Unit) -> Iterator[Ask]:  # noqa: N802
    """Ask for the share of the right answer that is there."""
    for one in unit:
        yield Ask(one.sample.id, _MM_VET, _shown(one), {"score": (0, 1)})


@dataclass
class Costs:
    """What a judge has cost in this run; what came from the cache cost nothing."""

    requests: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    unread: int = 0
    """Verdicts that could not be read, even when asked again; they count as 0."""
    money: float = 0.0


@dataclass
class Judge:
    """A model at an OpenAI-compatible address, with its verdicts kept in a file.

    Args:
        url: the address up to and with "/v1".
        price: money for a million tokens that go in, and that come out.
        cache: file of verdicts; what was judged once is not asked again.
    """

    url: str
    model: str
    cache: Path
    key: str = ""
    price: tuple[float, float] = (0.0, 0.0)
    at_once: int = 8
    timeout_s: float = 120.0
    attempts: int = 8
    wait_s: float = 1.0
    """Before the second attempt; twice as long before each further one, or as long as the judge says."""
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/]+", self.url):
            raise InputError(f"the judge's address is {self.url!r}; it must be like http://127.0.0.1:8000/v1")
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, float]] = {}
        mend(self.cache)
        for row in read_whole_lines(self.cache) if self.cache.is_file() else []:
            scores = row.get("scores")
            if isinstance(scores, dict) and all(isinstance(value, int | float) for value in scores.values()):
                self._known[str(row.get("key"))] = {str(name): float(value) for name, value in scores.items()}

    def judge(self, asks: Sequence[Ask]) -> dict[str, dict[str, float]]:
        """Return the scores of each sample by id.

        Raises:
            JudgeError: when the judge cannot be reached or refuses; verdicts that came before are kept.
        """
        verdicts: dict[str, dict[str, float]] = {}
        with ThreadPoolExecutor(self.at_once) as pool:
            found = [pool.submit(self._verdict, ask) for ask in asks]
            try:
                for ask, future in zip(asks, tqdm(found, desc="judging", unit="answer", mininterval=1), strict=True):
                    verdicts.setdefault(ask.about, {}).update(future.result())
            finally:
                pool.shutdown(cancel_futures=True)
        return verdicts

    def _verdict(self, ask: Ask) -> dict[str, float]:
        words = json.dumps([PROMPTS_VERSION, self.model, ask.messages], ensure_ascii=False)
        key = hashlib.sha256(words.encode()).hexdigest()
        if key in self._known:
            with self._lock:
                self.costs.cached += 1
            return self._known[key]
        messages = ask.messages
        for _ in range(2):
            reply = self._reply(messages)
            scores = read_scores(reply, ask.scores)
            if scores:
                break
            again = "That was not the JSON object that was asked for, with numbers in their ranges. Give it, alone."
            messages = [*messages, {"role": "assistant", "content": reply}, {"role": "user", "content": again}]
        else:
            with self._lock:
                self.costs.unread += 1
            return dict.fromkeys(ask.scores, 0.0)
        row = {"key": key, "about": ask.about, "model": self.model, "prompts": PROMPTS_VERSION, "scores": scores}
        with self._lock:
            self._known[key] = scores
            with self.cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row | {"reply": reply}) + "\n")
        return scores

    def _reply(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Send one conversation; wait and try again where the judge is busy or away."""
        head = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        body = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": 2048}
        address = f"{self.url.rstrip('/')}/chat/completions"
        problem, wait_s = "", 0.0
        for attempt in range(self.attempts):
            time.sleep(wait_s)
            wait_s = self.wait_s * 2**attempt
            try:
                answer = requests.post(address, json=body, headers=head, timeout=self.timeout_s)
            except requests.RequestException as error:
                problem = str(error) or type(error).__name__
                continue
            if answer.status_code == 429 or answer.status_code >= 500:
                problem = f"status {answer.status_code}"
                asked_for = answer.headers.get("Retry-After", "")
                wait_s = min(60.0, float(asked_for)) if asked_for.isdecimal() else wait_s
                continue
            if answer.status_code != 200:
                raise JudgeError(f"the judge at {self.url} refused (status {answer.status_code}): {answer.text[:200]}")
            return self._counted(answer)
        raise JudgeError(f"the judge at {self.url} did not answer in {self.attempts} attempts ({problem})")

    def _counted(self, answer: requests.Response) -> str:
        try:
            whole: Any = answer.json()
            text = str(whole["choices"][0]["message"]["content"] or "")
            usage = whole.get("usage") or {}
            tokens = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise JudgeError(f"the judge at {self.url} gave no chat completion: {answer.text[:200]}") from error
        with self._lock:
            self.costs.requests += 1
            self.costs.tokens_in += tokens[0]
            self.costs.tokens_out += tokens[1]
            self.costs.money += sum(price * number / 1e6 for price, number in zip(self.price, tokens, strict=True))
        return text


def judged(asks: Callable[[Unit], Iterator[Ask]], units: Sequence[Unit], judge: Judge) -> list[Answered]:
    """Return all answers of some units with their verdicts; what is said of a pair is said of both."""
    try:
        asked = [ask for unit in units if not any(one.failed for one in unit) for ask in asks(unit)]
    except KeyError as error:
        raise DataError(f"a question cannot be judged: {error} is missing") from error
    verdicts = judge.judge(asked)
    return [
        replace(one, verdict=verdicts.get(one.sample.id) or verdicts.get(unit[0].sample.id, {}))
        for unit in units
        for one in unit
    ]


def read_scores(reply: str, wanted: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return the scores of a judge's reply, from its last JSON object that has them all within their ranges."""
    for found in reversed(re.findall(r"\{[^{}]*\}", reply)):
        try:
            given = json.loads(found)
            scores = {name: _number(given[name]) for name in wanted}
        except (ValueError, TypeError, KeyError):
            continue
        fits = all(low <= scores[name] <= high for name, (low, high) in wanted.items())
        if fits and scores.get("right", 1.0) in (0.0, 1.0):
            return scores
    return {}


def _number(value: Any) -> float:
    if isinstance(value, str) and value.strip().lower() in ("yes", "no"):
        return float(value.strip().lower() == "yes")
    return float(value)


def _shown(one: Answered) -> str:
    truth = one.sample.truths[0] if one.sample.truths else ""
    asked = one.sample.fields.get("asked", one.sample.question)
    return f"Question:\n{asked}\n\nRight answer:\n{truth}\n\nModel's answer:\n{one.answer}"
