"""The losses of stage 1 and stage 2, and of the warm-up in which pre-fusion learns alone.

Source: LLaVA-Mini, section 4.3; the helper loss is ours.
M pictures and videos · B questions · L text · N² patches · d_v vision width · d width.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.projector import RMSNorm
from llava_mini.model.splice import place
from llava_mini.model.vision_prefix import VisionPrefix


class Answers(nn.Module):
    """Learn to answer: next-token loss on the answers, and beside it a helper loss on the fused text.

    The helper reads the next token off what pre-fusion added to a word, through the tied embedding; without it the
    small model stays blind for thousands of steps. Answers are shown to pre-fusion for the helper alone: under the
    causal mask they change no fused word of the question, and the language model gets their raw embeddings.
    """

    def __init__(
        self,
        model: LlavaMiniForConditionalGeneration,
        *,
        through: Literal["all_tokens", "shallow", "answers"],
        helper_weight: float,
    ) -> None:
        super().__init__()
        self.model = model.model
        self.lm_head = model.lm_head
        self.through = through
        self.helper_weight = helper_weight
        self.helper = RMSNorm(model.config.text.hidden_size)

    def forward(
        self,
        vision_features: Tensor,
        frames: Tensor,
        picture: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
    ) -> dict[str, Tensor]:
        """Return the loss of a batch of single-turn questions, padded on the right.

        Args:
            vision_features: `(M, F, P, N², d_v)`; videos have several frames.
            frames: `(M,)`, how many of them are real.
            picture: `(B,)`, which picture a question is about.
            labels: `(B, L)`, −100 for all but the answer.
        """
        present = attention_mask.bool()
        is_image = input_ids == self.model.config.image_token_id
        targets = labels[:, 1:]
        if self.through == "all_tokens":
            tokens = self.model._project(vision_features.flatten(0, 1)).flatten(1, 2)
            prefix = VisionPrefix(tokens, [], tokens.new_zeros(len(tokens), 1, 0), frames).select(picture)
            words = self.model.embed(input_ids, prefix, attention_mask=attention_mask)
            loss = self._language_model_loss(words, attention_mask, targets)
            return {"loss": loss, "answer_loss": loss.detach()}
        prefix = self.model.encode_images(vision_features=vision_features, frames=frames).select(picture)
        words = self.model.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        fused = self.model.fuse(words, present & ~is_image, [prefix]).words
        helper_loss = _next_token_loss(self.lm_head, self.helper((fused - words.detach())[:, :-1]), targets)
        if self.through == "shallow":
            return {"loss": helper_loss, "answer_loss": helper_loss.detach()}
        instruction = present & ~is_image & (labels == -100)
        mixed = torch.where(instruction[..., None], fused, words.detach())
        embeds = place(mixed, is_image, prefix.tokens)
        loss = self._language_model_loss(embeds, attention_mask, targets)
        return {"loss": loss + self.helper_weight * helper_loss, "answer_loss": loss.detach()}

    def _language_model_loss(self, embeds: Tensor, attention_mask: Tensor, targets: Tensor) -> Tensor:
        out = self.model.language_model(inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False)
        return _next_token_loss(self.lm_head, out.last_hidden_state[:, :-1], targets)


def _next_token_loss(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    """Run the head only where a token is supervised."""
    supervised = targets != -100
    return F.cross_entropy(head(hidden[supervised]), targets[supervised])
