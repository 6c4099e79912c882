"""FLOPs up to an answer's first token, part by part: real modules run on the meta device, torch counts what they call.

A multiplication and an addition count as two, attention as all of its L × L products, as torch does; what goes element
by element (norms, activations, softmax, rotary positions) is not counted.
T frames · P parts · N² patches · C² tokens a frame · L text tokens · d width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import DynamicCache

from llava_mini.checkpoints.embedded import embedded_geometry
from llava_mini.checkpoints.geometry import Geometry, geometry
from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import ConfigError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.vision_prefix import VisionPrefix
from llava_mini.model.vision_tower import VisionTower

Convention = Literal["everything", "paper"]
PARTS = ("vision", "projector", "compression", "pre_fusion", "llm")
WAYS = ("llava", "released", "first", "second", "shared_prefix")
PAPER_TEXT_TOKENS = 43
"""Text tokens behind the paper's totals; recovered by fitting, as the paper does not say."""
_PAPER = {"llava": 8.55, "released": 1.96}
"""Section 5.3, on Vicuna-7B."""
_LINEAR = ("aten.mm", "aten.addmm", "aten.convolution")


@dataclass(frozen=True)
class Question:
    """What is asked."""

    text_tokens: int = 60
    frames: int = 1
    prefix_tokens: int = 36
    """Of the text tokens, those that stand before the question in every conversation: a system prompt."""

    def __post_init__(self) -> None:
        if self.text_tokens < 1 or self.frames < 1 or not 0 <= self.prefix_tokens < self.text_tokens:
            raise ConfigError(
                f"text_tokens ({self.text_tokens}) and frames ({self.frames}) must be 1 or more, "
                f"prefix_tokens ({self.prefix_tokens}) fewer than the text tokens"
            )


def count_flops(
    config: LlavaMiniConfig, question: Question, convention: Convention = "everything"
) -> dict[str, dict[str, float]]:
    """Return the TFLOPs of each part and in total, for five ways to answer the same question.

    - `llava`: LLaVA-v1.5 on the same tower and language model; every patch is a token, of tiles and the whole alike.
    - `released`: LLaVA-Mini as its program computes it: the whole tower, every row of every pre-fusion layer, the head
      on every position.
    - `first`, `second`: ours, when a picture is new, and when its `VisionPrefix` is kept.
    - `shared_prefix`: ours, when the first words were asked about this picture before (`Dialogue`).

    Args:
        convention: "everything", or "paper": linear layers and convolutions alone, and in our ways too the whole tower
            and the head on every position.

    Raises:
        ConfigError: when the model has no pre-fusion: then there is nothing to compare.
    """
    return FlopsOf(config, convention).count(question)


def compare_flops(config: LlavaMiniConfig, question: Question, convention: Convention = "everything") -> str:
    """Return the counts as a table for people; the paper's own totals beside where they are known."""
    ways = count_flops(config, question, convention)
    what = "everything counted" if convention == "everything" else "the paper's convention: linear layers only"
    paper = (
        _PAPER if convention == "paper" and question.frames == 1 and config.tiles == 1 and _is_vicuna(config) else {}
    )
    lines = [f"TFLOPs, {question.text_tokens} text tokens, {question.frames} frames; {what}"]
    lines.append(f"{'':<15}{'total':>9}" + "".join(f"{part:>13}" for part in PARTS) + f"{'of llava':>10}")
    for way, parts in ways.items():
        row = f"{way:<15}{parts['total']:>9.3f}" + "".join(f"{parts[part]:>13.3f}" for part in PARTS)
        row += f"{100 * parts['total'] / ways['llava']['total']:>9.1f}%"
        lines.append(row + (f"   paper: {paper[way]:.2f}" if way in paper else ""))
    return "\n".join(lines)


def known_config(preset: str, model: str | None, *, hd: bool = False) -> LlavaMiniConfig:
    """Return the configuration of a preset, or of a folder; no weight is read.

    Args:
        hd: 2×2 tiles and 8×8 tokens, as the paper's HD model.

    Raises:
        ConfigError: when there is none.
    """
    changes: dict[str, Any] = {"tiles": 2, "compression_size": 8} if hd else {}
    if model is not None:
        try:
            return LlavaMiniConfig.from_dict(LlavaMiniConfig.from_pretrained(model).to_dict() | changes)
        except Exception as error:  # missing and damaged files raise many kinds
            raise ConfigError(
                f"{model} is no folder of a llava_mini model ({' '.join(str(error).split())[:200]})"
            ) from error
    if preset == "embedded":
        return embedded_geometry(**changes)
    if preset not in get_args(Geometry):
        raise ConfigError(f"no preset is called {preset!r}; there are {', '.join(get_args(Geometry))}, embedded")
    return geometry(preset, **changes)  # type: ignore[arg-type]


def _is_vicuna(config: LlavaMiniConfig) -> bool:
    return (config.text.vocab_size, config.text.intermediate_size, config.fusion_layers) == (32000, 11008, 4)


def _all_tokens(config: LlavaMiniConfig) -> LlavaMiniConfig:
    """Return the configuration of LLaVA-v1.5 on the same parts."""
    changed = config.to_dict() | {"compression": "none", "memory_words": 0, "fusion_context": 0, "fusion_layers": 0}
    return LlavaMiniConfig.from_dict(changed)


class FlopsOf:
    """One model, built once on the meta device, and what questions to it cost; see `count_flops`."""

    def __init__(self, config: LlavaMiniConfig, convention: Convention = "everything") -> None:
        if not config.fusion_layers:
            raise ConfigError("the model has no pre-fusion; count one that has fusion_layers")
        whole = convention == "paper"
        self._ours, self._theirs = _Counted(config, whole), _Counted(_all_tokens(config), whole)

    def count(self, question: Question) -> dict[str, dict[str, float]]:
        """Return the TFLOPs of each part and in total, for each of `WAYS`."""
        ours, theirs = self._ours.asked(question), self._theirs.asked(question)
        ways = {
            "llava": theirs.all_tokens(),
            "released": ours.released(),
            "first": ours.first(),
            "second": ours.second(),
            "shared_prefix": ours.shared_prefix(),
        }
        return {
            way: {"total": sum(parts.values()) / 1e12, **{name: parts.get(name, 0) / 1e12 for name in PARTS}}
            for way, parts in ways.items()
        }

    def weight_bytes(self) -> dict[str, dict[str, int]]:
        """Return the bytes of 16-bit weights that each part of each way reads, each weight once."""
        whole = _bytes(self._ours.whole_tower)
        parts = self._ours.weight_bytes()
        context = self._ours.core.patch_context  # heard when the picture was read
        read = parts["pre_fusion"] - (0 if context is None else _bytes(context))
        second = {**parts, "vision": 0, "projector": 0, "compression": 0, "pre_fusion": read}
        return {
            "llava": {**parts, "vision": whole, "compression": 0, "pre_fusion": 0},
            "released": {**parts, "vision": whole},
            "first": parts,
            "second": second,
            "shared_prefix": second,
        }


class _Counted:
    """A model on the meta device, and the counts of its parts."""

    def __init__(self, config: LlavaMiniConfig, paper: bool) -> None:
        self.config, self.paper = config, paper
        self._known: dict[tuple[str | int | bool, ...], int] = {}
        with torch.device("meta"):
            self.model: Any = LlavaMiniForConditionalGeneration(config).to(torch.bfloat16).eval()
            self.whole_tower = VisionTower(config.vision, None).to(torch.bfloat16)
        self.core = self.model.model

    def asked(self, question: Question) -> "_Counted":
        """Take the shapes of a question."""
        self.question, config = question, self.config
        side, width = config.vision.image_size, config.text.hidden_size
        parts, patches = config.parts_per_frame, config.patches_per_side**2
        self.pixels = _meta(1, question.frames, parts, 3, side, side)
        self.features = _meta(question.frames, parts, patches, config.vision.hidden_size)
        self.words = _meta(1, question.text_tokens, width)
        return self

    def weight_bytes(self) -> dict[str, int]:
        layers = _bytes(self.core.language_model) - _bytes(self.core.get_input_embeddings())
        return {
            "vision": _bytes(self.core.vision_tower),
            "projector": _bytes(self.core.multi_modal_projector),
            "compression": sum(
                _bytes(part) for part in (self.core.compressor, self.core.word_memory) if part is not None
            ),
            "pre_fusion": sum(
                _bytes(part) for part in (self.core.patch_context, self.core.pre_fusion) if part is not None
            ),
            "llm": layers + _bytes(self.model.lm_head),
        }

    def all_tokens(self) -> dict[str, int]:
        tokens = self.question.frames * self.config.parts_per_frame * self.config.patches_per_side**2
        return {
            "vision": self._vision(whole=True),
            "projector": self._projector(),
            "llm": self._llm(tokens + self.question.text_tokens, every_head=True),
        }

    def released(self) -> dict[str, int]:
        projected = self.core._project(self.features)
        tokens = self.core._vision_tokens(self.features, projected)
        words = self.words.expand(self.question.frames, -1, -1)

        def read() -> None:
            rows = torch.cat([self.core._rows_to_read(projected), tokens, words], dim=1)
            self.core.pre_fusion.decoder(inputs_embeds=rows, past_key_values=DynamicCache(), use_cache=True)

        return {
            **self._compressed(),
            "vision": self._vision(whole=True),
            "pre_fusion": self._count(read),
            "llm": self._llm(self._seen(), every_head=True),
        }

    def first(self) -> dict[str, int]:
        def fuse() -> None:
            self.core.pre_fusion.fuse(self._words_of_frames(), self._every(), self._encode().states)

        compressed = self._compressed()
        return {
            **compressed,
            "vision": self._vision(whole=self.paper),
            "pre_fusion": self._count(fuse) - sum(compressed.values()),  # `_encode` compresses and projects as well
            "llm": self._llm(self._seen(), every_head=self.paper),
        }

    def second(self) -> dict[str, int]:
        kept = self._encode()
        return {
            "pre_fusion": self._count(
                lambda: self.core.pre_fusion.fuse(self._words_of_frames(), self._every(), kept.states)
            ),
            "llm": self._llm(self._seen(), every_head=self.paper),
        }

    def shared_prefix(self) -> dict[str, int]:
        before = self.question.prefix_tokens
        new = self.question.text_tokens - before
        words = self._words_of_frames()
        states = self._encode().states
        if before:
            states = self.core.pre_fusion.read(words[:, :before], states)[1]
        return {
            "pre_fusion": self._count(lambda: self.core.pre_fusion.read(words[:, before:], states)),
            "llm": self._llm(new, kept=self._seen() - new, every_head=self.paper),
        }

    def _encode(self) -> VisionPrefix:
        prefix: VisionPrefix = self.core.encode_features(self.features, torch.tensor([self.question.frames]))
        return prefix

    def _vision(self, *, whole: bool) -> int:
        tower = self.whole_tower if whole else self.core.vision_tower
        return self._count(lambda: tower(self.pixels.flatten(0, 2)), "vision", self.question.frames, whole)

    def _projector(self) -> int:
        return self._count(lambda: self.core._project(self.features), "projector", self.question.frames)

    def _compressed(self) -> dict[str, int]:
        frames = self.question.frames
        projected = self.core._project(self.features)
        project = self._projector()
        both = self._count(lambda: self.core._vision_tokens(self.features, projected), "compression", frames)
        tokens = _meta(frames, self.config.tokens_per_frame, self.config.vision.hidden_size)
        again = self._count(lambda: self.core._project(tokens), "again", frames) if self.config.compression_first else 0
        return {"projector": project + again, "compression": both - again}

    def _seen(self) -> int:
        """Rows of the language model."""
        return self.question.frames * self.config.tokens_per_frame + self.question.text_tokens

    def _words_of_frames(self) -> Tensor:
        return self.words.expand(self.question.frames, -1, -1)

    def _every(self) -> Tensor:
        return torch.ones(self.question.frames, self.question.text_tokens, dtype=torch.bool, device="meta")

    def _llm(self, rows: int, *, kept: int = 0, every_head: bool) -> int:
        text, cache = self.config.text, DynamicCache()
        for layer in range(text.num_hidden_layers if kept else 0):
            states = _meta(1, text.num_key_value_heads, kept, text.head_dim)
            cache.update(states, states, layer)

        return self._count(
            lambda: self.model(
                inputs_embeds=_meta(1, rows, text.hidden_size),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=0 if every_head else 1,
            ),
            *("llm", rows, kept, every_head),
        )

    @torch.no_grad()
    def _count(self, run: Callable[[], object], *of: str | int | bool) -> int:
        """Count what runs; what is known `of` an earlier question is not counted again."""
        if of in self._known:
            return self._known[of]
        with FlopCounterMode(display=False) as counter:
            run()
        found: Mapping[Any, int] = counter.get_flop_counts().get("Global", {})
        flops = sum(n for operation, n in found.items() if not self.paper or str(operation).startswith(_LINEAR))
        if of:
            self._known[of] = flops
        return flops


def count_run(run: Callable[[], object]) -> int:
    """Count the operations of what runs on a device; attention of CPUs is unknown to torch's counter."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    known = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        run()
    return int(counter.get_total_flops())


def _bytes(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def _meta(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.bfloat16, device="meta")
