"""Many questions as a Ray Data pipeline: one model an actor, on as many machines as the cluster has (extra `ray`).

ray.data.read_json(questions) → map_batches(one model an actor: `answer_rows`) → write_json(answers)
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mini.errors import ModelError
from llava_mini.reply import Sampling
from llava_mini.serving.many import Many, answer_rows

if TYPE_CHECKING:
    from ray.data import Dataset

COLUMNS = ("id", "answer", "vision_tokens", "prompt_tokens", "error")


def answer_dataset(
    dataset: "Dataset",
    model: str | None = None,
    *,
    media: str = "",
    batch_size: int = 16,
    sampling: Sampling | None = None,
    engine: str = "torch",
    device: str = "auto",
    dtype: str = "auto",
    concurrency: int | tuple[int, int] = 1,
    num_gpus: float = 0,
    num_cpus: float | None = None,
) -> "Dataset":
    """Answer the rows of a data set as `llava-mini batch` answers the lines of a file.

    Args:
        dataset: rows as `llava-mini batch` takes them, each with an id; their files must be there on every machine.
        model: folder or hub name, as every machine knows it; None: the embedded model.
        media: folder of the files that rows name by relative paths.
        batch_size: questions that a language model answers at a time.
        sampling: how tokens are chosen.
        engine: where the language model runs; "http://…/v1" for servers of vLLM.
        device: "cpu", "cuda" or "auto".
        dtype: "float32", "bfloat16", "float16" or "auto".
        concurrency: how many models, or the fewest and the most.
        num_gpus: GPUs for each model.
        num_cpus: CPUs for each model; None: as Ray says.

    Returns:
        Rows of `id`, `answer`, `vision_tokens`, `prompt_tokens` and `error`, one for each row; nothing is computed
        before it is read.

    Raises:
        ModelError: when Ray is not installed.
    """
    try:
        data: Any = importlib.import_module("ray.data")
    except ImportError as error:
        raise ModelError("Ray is not installed; 'pip install llava-mini[ray]' brings it") from error
    many = Many(media=Path(media), batch_size=batch_size, sampling=sampling or Sampling())
    fewest, most = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency
    resources = {"num_gpus": num_gpus} | ({} if num_cpus is None else {"num_cpus": num_cpus})
    answered: Dataset = dataset.map_batches(
        _Answerer,
        fn_constructor_kwargs={"model": model, "engine": engine, "device": device, "dtype": dtype, "many": many},
        batch_size=_BATCHES * batch_size,
        batch_format="pyarrow",
        compute=data.ActorPoolStrategy(min_size=fewest, max_size=most),
        **resources,
    )
    return answered


_BATCHES = 8
"""So many times the questions of one step are given to an actor at once: the last ones run in a batch that empties."""


class _Answerer:
    """One model, in a process of its own."""

    def __init__(self, many: Many, **loading: Any) -> None:
        from llava_mini.assistant import Assistant

        self._many = many
        self._assistant = Assistant.load(loading.pop("model"), **loading)

    def __call__(self, batch: Any) -> Any:
        """Answer the rows of an Arrow table."""
        import pyarrow

        rows = list(answer_rows(self._assistant, map(_without_gaps, batch.to_pylist()), self._many))
        return pyarrow.table({name: [row.get(name) for row in rows] for name in COLUMNS}, schema=_schema(batch))


def _schema(batch: Any) -> Any:
    """Name the types of the answers' columns: a batch without errors has them too."""
    import pyarrow

    kinds = {"answer": pyarrow.string(), "vision_tokens": pyarrow.int64(), "prompt_tokens": pyarrow.int64()}
    kinds |= {"error": pyarrow.string()}
    named = batch.schema.field("id").type if "id" in batch.schema.names else pyarrow.int64()
    return pyarrow.schema([(name, named if name == "id" else kinds[name]) for name in COLUMNS])


def _without_gaps(value: Any) -> Any:
    """Take away what a table adds to rows that have fewer fields than others."""
    if isinstance(value, dict):
        return {name: _without_gaps(item) for name, item in value.items() if item is not None}
    return [_without_gaps(item) for item in value] if isinstance(value, list) else value
