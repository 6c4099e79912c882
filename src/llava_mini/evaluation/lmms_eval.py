"""LLaVA-Mini as a model of lmms-eval: `--model llava_mini --model_args pretrained=DIR`.

lmms-eval finds `manifest` by this package's entry point; nothing of it is needed to install or to import this package.
Written against lmms-eval 0.7, the interface `lmms_eval.api.model.lmms` of "simple" models.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llava_mini.errors import InputError


def manifest() -> Any:
    """Return what lmms-eval registers: the name of the model and where its class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="llava_mini", simple_class_path="llava_mini.evaluation.lmms_eval.LlavaMini")


def __getattr__(name: str) -> Any:
    """Make the class when it is asked for: its base is lmms-eval's."""
    if name == "LlavaMini":
        return _make_class()
    raise AttributeError(name)


def _make_class() -> Any:
    from lmms_eval.api.model import lmms

    class LlavaMini(lmms):
        """Answer lmms-eval's requests with an `Assistant`.

        Args:
            pretrained: folder or hub name; "embedded" or nothing is the embedded model.
            batch_size: accepted for lmms-eval's command line; requests are answered one at a time.
        """

        def __init__(
            self,
            pretrained: str = "embedded",
            batch_size: int | str = 1,
            device: str = "auto",
            dtype: str = "auto",
            fps: float | str | None = None,
            max_frames: int | str | None = None,
            **unknown: Any,
        ) -> None:
            super().__init__()
            if unknown:
                raise InputError(f"{sorted(unknown)[0]!r} is no argument of llava_mini")
            from llava_mini.assistant import Assistant
            from llava_mini.inputs.media import FrameSampling

            self._rank, self._world_size = _processes()
            self._assistant = Assistant.load(
                None if pretrained == "embedded" else pretrained, device=_device(device), dtype=dtype
            )
            own = self._assistant.processor.sampling
            self._frames = FrameSampling(
                float(fps) if fps is not None else own.fps,
                int(max_frames) if max_frames is not None else own.max_frames,
            )

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """Answer requests `(context, generation arguments, documents to visuals, id, task, split)` in order."""
            from tqdm import tqdm

            answers: list[str] = []
            bar = tqdm(total=len(requests), desc="llava_mini", unit="question", disable=self._rank > 0)
            with bar:
                for request in requests:
                    answers.append(self._answer(*request.args))
                    bar.update()
            return answers

        def _answer(
            self,
            context: str,
            arguments: dict[str, Any],
            visuals: Callable[[Any], Any],
            number: Any,
            task: str,
            split: str,
        ) -> str:
            from llava_mini.reply import Sampling

            shown = [_media(one) for one in _given(visuals, self.task_dict[task][split][number])]
            limit = int(arguments.get("max_new_tokens", 128))
            sampling = Sampling(max_new_tokens=limit, temperature=float(arguments.get("temperature") or 0.0))
            words = context.replace("<image>", "").replace("<video>", "").strip()
            text = self._assistant.ask(words, *shown, sampling=sampling, frames=self._frames).text
            until = arguments.get("until") or []
            for end in [until] if isinstance(until, str) else until:
                text = text.split(end)[0] if end else text
            return text.strip()

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """Refuse: tasks that rank answers by their likelihood are not supported."""
            raise NotImplementedError("llava_mini answers in words; choose a task with output_type generate_until")

        def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
            """Refuse: tasks of several rounds are not supported."""
            raise NotImplementedError("llava_mini takes tasks of one round; choose one with output_type generate_until")

    return LlavaMini


def _given(visuals: Callable[[Any], Any], document: Any) -> list[Any]:
    """Return what a task shows with a question, as one flat list."""
    shown = visuals(document)
    listed = shown if isinstance(shown, list | tuple) else [shown]
    return [one for item in listed for one in (item if isinstance(item, list | tuple) else [item]) if one is not None]


def _media(one: Any) -> Any:
    """Return a picture or a file as the assistant takes it."""
    from PIL import Image

    if isinstance(one, Image.Image | str | bytes):
        return one
    if isinstance(one, dict) and isinstance(one.get("bytes"), bytes):
        return one["bytes"]
    if isinstance(one, dict) and isinstance(one.get("path"), str):
        return one["path"]
    raise InputError(f"a task shows a {type(one).__name__}; pictures, files and their bytes are taken")


def _processes() -> tuple[int, int]:
    from accelerate import PartialState

    state = PartialState()
    return state.process_index, state.num_processes


def _device(name: str) -> str:
    """Return the device of this process: lmms-eval says "cuda" to all of them."""
    from accelerate import PartialState

    state = PartialState()
    return str(state.device) if state.num_processes > 1 and name.startswith("cuda") else name
