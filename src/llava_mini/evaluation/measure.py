"""Measure a model on benchmarks: ask, score, report; one process, or several started by `accelerate launch`."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState

from llava_mini.assistant import Assistant
from llava_mini.evaluation.answering import Asking, answer_all, begin, draw, read_answers
from llava_mini.evaluation.benchmarks import Benchmark
from llava_mini.evaluation.judge import Judge
from llava_mini.evaluation.report import write_report
from llava_mini.evaluation.results import Result, score
from llava_mini.evaluation.samples import Sample


def measure(
    assistant: Assistant,
    benchmarks: Sequence[Benchmark],
    questions: Mapping[str, Sequence[Sample]],
    out: Path,
    asking: Asking,
    *,
    limit: int | None = None,
    judge: Judge | None = None,
) -> Iterator[Result]:
    """Yield the result of each benchmark; answers, scores and report lie in `out`, in a folder a benchmark.

    Of several processes each answers its part, and the first scores all.

    Args:
        questions: the samples of each benchmark by its name.
        limit: so many questions are drawn of each.
    """
    state = processes(cpu=assistant.model.device.type == "cpu")
    drawn = {benchmark.name: draw(questions[benchmark.name], limit) for benchmark in benchmarks}

    def scored(benchmark: Benchmark) -> Result:
        folder, whole = out / benchmark.name, len(questions[benchmark.name])
        found = score(benchmark, drawn[benchmark.name], folder, of=whole, model=assistant.name, judge=judge)
        write_report(benchmark, found, folder)
        return found.result

    for benchmark in benchmarks:
        folder, samples = out / benchmark.name, drawn[benchmark.name]
        how = asking.of(benchmark.max_new_tokens)
        if state.is_main_process:
            begin(folder, assistant, how)
        state.wait_for_everyone()
        done = read_answers(folder, samples).answers
        state.wait_for_everyone()  # nobody writes before all have read
        answer_all(
            assistant,
            samples,
            folder,
            how,
            title=benchmark.title,
            done=done,
            process=state.process_index,
            processes=state.num_processes,
        )
        if state.num_processes == 1 and benchmark.asks is None:
            yield scored(benchmark)
    state.wait_for_everyone()
    if not state.is_main_process:
        return
    for benchmark in benchmarks:  # a judge may take hours, or be away: all is answered by then
        if state.num_processes > 1 or benchmark.asks is not None:
            yield scored(benchmark)


def processes(*, cpu: bool) -> PartialState:
    """Return this process among its launcher's; as videos differ in length, it may wait for the others for days."""
    return PartialState(cpu=cpu, timeout=timedelta(days=7))
