"""The losses of stage 1 and stage 2.

Source: LLaVA-Mini, section 4.3; the grounding beside the answers is ours.
M pictures and videos · R frames of all · S samples · L text · P parts · N² patches · d_v vision width · d width.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_mini.errors import InputError
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.splice import check_frames, count_frames, place
from llava_mini.model.vision_prefix import VisionPrefix
from llava_mini.training.grounding import MentionReader, ground


class Answers(nn.Module):
    """Learn to answer: next-token loss on the answers; beside it, if wanted, what names say of the same pictures."""

    accepts_loss_kwargs = True  # the trainer counts the supervised tokens of a whole step and passes their number

    def __init__(
        self,
        model: LlavaMiniForConditionalGeneration,
        *,
        through: Literal["all_tokens", "answers"],
        reader: MentionReader | None = None,
        grounding_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model.model
        self.lm_head = model.lm_head
        self.through = through
        self.helper = reader
        self.grounding_weight = grounding_weight

    def activation_checkpointing_enable(self, **how: object) -> None:
        """Checkpoint the activations of the language model and of pre-fusion."""
        self.model.activation_checkpointing_enable(**how)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        frames: Tensor,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        picture: Tensor | None = None,
        packed: Tensor | None = None,
        mentions: Mapping[str, Tensor] | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of a batch of samples, padded on the right.

        Args:
            input_ids: `(S, L)`.
            labels: `(S, L)`, −100 for all but answers.
            frames: `(M,)`, how many frames each picture or video has; M = S unless `picture` says otherwise.
            pixel_values: `(R, P, 3, H, W)`.
            vision_features: `(R, P, N², d_v)`, in place of pixels.
            picture: `(S,)`, which of the M a sample is about, where several are about one.
            packed: `(B, L')`, which of the S · L places stands where in the rows of the language model, −1 for padding;
                a sample sees itself alone, in pre-fusion because it has its own row there.
            mentions: a row of names for each of the first pictures, as `grounding_batch` makes them.
            num_items_in_batch: supervised tokens to divide by: those of all devices and accumulated batches.
        """
        present = attention_mask.bool()
        is_image = input_ids == self.model.config.image_token_id
        targets = F.pad(labels[:, 1:], (0, 1), value=-100)
        words: Tensor = self.model.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        texts_alone = False
        if pixel_values is not None and not len(pixel_values):
            texts_alone = True
            # Every process must run the same modules, or those that wait for its gradients wait for ever: look at one
            # blank frame, and count it with weight 0.
            pixel_values, frames = pixel_values.new_zeros(1, *pixel_values.shape[1:]), _first_alone(frames)
        shown = self._encode(pixel_values, vision_features, frames)
        prefix = shown if picture is None else shown.select(picture)
        fused = self.model.fuse(words, present & ~is_image & (labels == -100), [prefix]).words
        if texts_alone:
            fused = words + 0.0 * (fused.sum() + prefix.tokens.sum())
            _check(is_image, torch.zeros_like(frames), prefix.tokens.shape[1])
        else:
            _check(is_image, prefix.frames, prefix.tokens.shape[1])
        embeds = fused if texts_alone else place(fused, is_image, prefix.tokens)
        loss = total = self._loss(*self._read(embeds, attention_mask, targets, packed), num_items_in_batch)
        if self.helper is not None and mentions is not None:
            named = torch.arange(len(mentions["input_ids"]), device=input_ids.device)
            # A device's share of the step's tokens is its share of this loss too.
            share = 1.0 if num_items_in_batch is None else (targets != -100).sum() / num_items_in_batch
            total = loss + self.grounding_weight * share * ground(
                self.model, self.helper, shown.select(named), mentions
            )
        return {"loss": total, "answer_loss": loss.detach()}

    def _encode(self, pixels: Tensor | None, features: Tensor | None, frames: Tensor) -> VisionPrefix:
        if features is None:
            if pixels is None:
                raise InputError("the objective got neither pixel_values nor vision_features; give one of them")
            features = self.model.get_vision_features(pixels[None])[0]
        return self.model.encode_features(features, frames, compress=self.through != "all_tokens")

    def _read(
        self, embeds: Tensor, attention_mask: Tensor, targets: Tensor, packed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Run the language model; return its hidden states and their targets, row by row."""
        if packed is None:
            mask = attention_mask
            if embeds.device.type == "meta":  # where nobody can look whether a mask is needed
                mask = torch.ones(len(embeds), 1, embeds.shape[1], embeds.shape[1], dtype=torch.bool, device="meta")
            out = self.model.language_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
            return out.last_hidden_state, targets
        real, where = packed >= 0, packed.clamp(min=0)
        positions = where % embeds.shape[1]  # they begin anew with each sample, and that is what keeps samples apart
        rows = embeds.flatten(0, 1)[where]
        out = self.model.language_model(inputs_embeds=rows, position_ids=positions * real, use_cache=False)
        return out.last_hidden_state, targets.flatten()[where].masked_fill(~real, -100)

    def _loss(self, hidden: Tensor, targets: Tensor, items: Tensor | int | None) -> Tensor:
        """Return the cross-entropy of the supervised tokens; the head runs for them alone."""
        if hidden.device.type != "meta":  # where sizes must not hang on values
            supervised = targets != -100
            hidden, targets = hidden[supervised], targets[supervised]
        scores = self.lm_head(hidden).flatten(0, -2).float()
        if items is None:
            return F.cross_entropy(scores, targets.flatten())
        return F.cross_entropy(scores, targets.flatten(), reduction="sum") / items


def _check(is_image: Tensor, frames: Tensor, tokens_per_frame: int) -> None:
    """Check that every sample is given the frames that its text has places for: never another sample's picture."""
    if is_image.device.type != "meta":
        check_frames(count_frames(is_image, tokens_per_frame), frames.to(is_image.device))


def _first_alone(frames: Tensor) -> Tensor:
    """Return the counts of a batch in which the first sample has one frame and the others none."""
    first = torch.zeros_like(frames)
    first[0] = 1
    return first
