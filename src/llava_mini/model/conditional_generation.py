"""LLaVA-Mini with its language-modelling head: ask, generate, train.

Source: LLaVA-Mini, section 4.  B batch · F frames · P parts · N² patches · L text · d_v width of the tower.
"""

from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, DynamicCache, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import InputError
from llava_mini.model.last_layer import last_row_alone
from llava_mini.model.llava_mini import LlavaMiniModel
from llava_mini.model.pretrained import LlavaMiniPreTrainedModel
from llava_mini.model.vision_prefix import VisionPrefix


class LlavaMiniForConditionalGeneration(LlavaMiniPreTrainedModel, GenerationMixin):
    """The model whose `generate` answers and whose `labels` train it."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: LlavaMiniConfig) -> None:
        super().__init__(config)
        self.model = LlavaMiniModel(config)
        self.lm_head: Any = (
            nn.Identity()
            if config.language_model_elsewhere
            else nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's word embeddings."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's word embeddings."""
        self.model.set_input_embeddings(value)

    @property
    def word_embeddings(self) -> Tensor:
        """The embedding table `(vocabulary, d)`."""
        table = self.get_input_embeddings().weight
        assert isinstance(table, Tensor)
        return table

    def get_output_embeddings(self) -> nn.Module:
        """Return the language-modelling head."""
        return self.lm_head

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Return the vision tokens that the language model sees: `(B, F, C², d)`."""
        return self.model.get_image_features(pixel_values)

    def encode_images(
        self,
        pixel_values: Tensor | None = None,
        *,
        vision_features: Tensor | None = None,
        frames: Tensor | None = None,
    ) -> VisionPrefix:
        """Encode pictures once for many questions; see `LlavaMiniModel.encode_images`."""
        return self.model.encode_images(pixel_values, vision_features=vision_features, frames=frames)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        vision_features: Tensor | None = None,
        vision_prefix: VisionPrefix | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the model; with `labels` `(B, L)` (−100 = not supervised) return the loss too.

        Supervised tokens are answers: they are never fused. See `LlavaMiniModel.forward` for the other arguments.
        """
        if labels is not None:
            unsupervised = labels == -100
            instruction_mask = unsupervised if instruction_mask is None else unsupervised & instruction_mask.bool()
        elif self.config.fuse_history:
            instruction_mask = None
        rows = input_ids if inputs_embeds is None else inputs_embeds
        seen = kwargs.get("output_hidden_states") or kwargs.get("output_attentions")
        one = isinstance(logits_to_keep, int) and logits_to_keep == 1 and rows is not None and rows.shape[1] > 1
        last = getattr(self.model.language_model, "layers", [None])[-1] if one and not seen else None
        with last_row_alone(last) if last is not None else nullcontext():
            out = self.model(
                input_ids=input_ids,
                pixel_values=pixel_values,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                instruction_mask=instruction_mask,
                vision_features=vision_features,
                vision_prefix=vision_prefix,
                **{name: value for name, value in kwargs.items() if name != "num_items_in_batch"},
            )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, kept, :])
        loss = None
        if labels is not None:
            items = {"num_items_in_batch": kwargs["num_items_in_batch"]} if "num_items_in_batch" in kwargs else {}
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.text.vocab_size, **items)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """Continue a prompt as transformers does; what is generated is an answer, so it is never fused.

        Raises:
            InputError: when all words are to be fused (`fuse_history`) and nothing keeps them: words that are
                generated would be fused too.
        """
        prompt = inputs if inputs is not None else kwargs.get("input_ids")
        if self.config.fuse_history and kwargs.get("use_cache") is False:
            raise InputError("fuse_history needs the cache: without it generated words would be fused; drop use_cache")
        if prompt is not None and kwargs.get("instruction_mask") is None:
            kwargs["instruction_mask"] = torch.ones_like(prompt)
        if hasattr(self.model.language_model, "new_cache") and kwargs.get("past_key_values") is None:
            kwargs["past_key_values"] = self.new_cache()
        return super().generate(inputs, **kwargs)

    def new_cache(self) -> Cache:
        """Return an empty cache of the language model, of its engine's own kind where it has one."""
        make = getattr(self.model.language_model, "new_cache", DynamicCache)
        cache: Cache = make()
        return cache

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Give pictures to the first step only, or to all without a cache; generated words keep raw embeddings."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        mask = inputs.get("instruction_mask")
        if not is_first_iteration and inputs.get("past_key_values") is not None:
            for name in ("pixel_values", "vision_features", "vision_prefix", "instruction_mask"):
                inputs.pop(name, None)
        elif mask is not None and inputs.get("input_ids") is not None:
            inputs["instruction_mask"] = F.pad(mask, (0, inputs["input_ids"].shape[1] - mask.shape[1]))
        return inputs

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, *args: Any, vision_prefix: VisionPrefix | None = None, **kwargs: Any
    ) -> Any:
        """Repeat a prefix as often as the rows: once a beam, once a returned sequence."""
        if vision_prefix is not None:
            rows = torch.arange(len(vision_prefix.frames))
            kwargs["vision_prefix"] = vision_prefix.select(rows.repeat_interleave(expand_size))
        return super()._expand_inputs_for_generation(expand_size, *args, **kwargs)
