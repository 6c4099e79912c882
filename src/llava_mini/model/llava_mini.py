"""LLaVA-Mini: vision tower → compression → projector (→ word memory, patch context) → pre-fusion → language model.

Source: LLaVA-Mini, section 4, Figure 6; released order of the parts by default (docs/paper_vs_code.md).
B batch · F frames of a row, R of all · P parts · N² patches of a part · C² tokens of a frame · L text · d_v, d widths.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModel, Cache
from transformers.modeling_outputs import BaseModelOutputWithPast

from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import InputError
from llava_mini.model.chunking import frames_per_chunk
from llava_mini.model.compression import build_compressor
from llava_mini.model.elsewhere import LanguageModelElsewhere
from llava_mini.model.patch_context import PatchContext
from llava_mini.model.pre_fusion import LayerStates, ModalityPreFusion
from llava_mini.model.pretrained import LlavaMiniPreTrainedModel
from llava_mini.model.projector import RMSNorm, build_projector
from llava_mini.model.splice import check_frames, check_room, count_frames, join_tiles, pack, place
from llava_mini.model.vision_prefix import VisionPrefix
from llava_mini.model.vision_tower import VisionTower
from llava_mini.model.word_memory import WordMemory


class Fused(NamedTuple):
    """What reading the pictures gives."""

    words: Tensor
    """`(B, L, d)`: words that have read the pictures; all others as they were."""
    tokens: Tensor
    """`(R, C², d)`: the vision tokens of all R frames, row after row."""
    frames: Tensor
    """`(B,)`: how many frames each row has been shown."""


class LlavaMiniModel(LlavaMiniPreTrainedModel):
    """The model without its language-modelling head."""

    def __init__(self, config: LlavaMiniConfig) -> None:
        super().__init__(config)
        width = config.text.hidden_size
        self.vision_tower = VisionTower(config.vision, config.vision_feature_layer)
        self.compressor = build_compressor(config)
        self.multi_modal_projector = build_projector(config)
        self.projector_norm = RMSNorm(width) if config.projector_norm else None
        self.word_memory = WordMemory(config.memory_words, width) if config.memory_words else None
        self.patch_context = PatchContext(width, config.fusion_context) if config.fusion_context else None
        self.pre_fusion = (
            ModalityPreFusion(config.text, config.fusion_layers, residual=config.fusion_residual)
            if config.fusion_layers
            else None
        )
        self.language_model: Any = (
            LanguageModelElsewhere(config.text)
            if config.language_model_elsewhere
            else AutoModel.from_config(config.text)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's word embeddings."""
        embeddings: nn.Module = self.language_model.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's word embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_vision_features(self, pixel_values: Tensor) -> Tensor:
        """Run the tower over `(B, F, P, 3, H, W)` pixels: `(B, F, P, N², d_v)`."""
        if pixel_values.ndim != 6:
            raise InputError(f"pixel_values has shape {tuple(pixel_values.shape)}; it must be (B, F, P, 3, H, W)")
        features: Tensor = self.vision_tower(pixel_values.flatten(0, 2).to(self.dtype))
        return features.unflatten(0, pixel_values.shape[:3])

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Return the vision tokens that the language model sees: `(B, F, C², d)`."""
        return self.encode_images(pixel_values).tokens.unflatten(0, pixel_values.shape[:2])

    def encode_images(
        self,
        pixel_values: Tensor | None = None,
        *,
        vision_features: Tensor | None = None,
        frames: Tensor | None = None,
    ) -> VisionPrefix:
        """Compress the pictures and run the vision half of pre-fusion (sections 4.1, 4.2); no text is needed.

        Args:
            pixel_values: `(B, F, P, 3, H, W)`.
            vision_features: `(B, F, P, N², d_v)`, in place of pixels, when the tower has run before.
            frames: `(B,)`, how many frames of each row are real; all of them if left out.
        """
        return VisionPrefix.joined(list(self.encode_in_chunks(pixel_values, vision_features, frames)))

    def encode_in_chunks(
        self, pixel_values: Tensor | None, vision_features: Tensor | None = None, frames: Tensor | None = None
    ) -> Iterator[VisionPrefix]:
        """Encode the real frames, row after row, as many at a time as `frame_memory_mb` allows."""
        given = self._frames_given(pixel_values, vision_features)
        batch, most = given.shape[:2]
        whole = torch.full((batch,), most, device=given.device)
        frames = whole if frames is None else frames.to(given.device).minimum(whole)
        if given.device.type == "meta":
            rows = given.flatten(0, 1)
        else:
            rows = given[torch.arange(most, device=given.device) < frames[:, None]]  # (R, P, …)
        size = frames_per_chunk(self.config, self.dtype)
        ends = frames.cumsum(dim=0)
        for start in range(0, max(1, len(rows)), size):
            chunk = rows[start : start + size]
            features = self.get_vision_features(chunk[None])[0] if vision_features is None else chunk
            inside = (ends.clamp(max=start + size) - (ends - frames).clamp(min=start)).clamp(min=0)
            yield self._encode(features.to(self.dtype), inside)

    def look(self, pixel_values: Tensor) -> Tensor:
        """Return where the compression queries look in the frames of `(B, F, P, 3, H, W)` pixels.

        Returns:
            `(B · F, C², patches)`, rows sum to 1; of tiles, the patches of all of them as one picture.

        Raises:
            InputError: when the model does not compress.
        """
        if self.compressor is None:
            raise InputError("the model keeps all tokens: there is no compression to look at")
        looked = []
        size = frames_per_chunk(self.config, self.dtype)
        for rows in self._frames_given(pixel_values, None).flatten(0, 1).split(size):
            features = self.get_vision_features(rows[None])[0].to(self.dtype)
            patches = features if self.config.compression_first else self._project(features)
            looked.append(self.compressor.look(join_tiles(patches, self.config.tiles)))
        return torch.cat(looked)

    def encode_features(self, features: Tensor, frames: Tensor, *, compress: bool = True) -> VisionPrefix:
        """Encode the features of all frames at once, as training does: row after row, without padding.

        Args:
            features: `(R, P, N², d_v)`, what the tower gave.
            frames: `(B,)`, how many of the R frames each row shows.
            compress: False: all projected patches are vision tokens and nothing is fused, as in stage 1 (section 4.3).
        """
        features = features.to(self.dtype)
        if compress:
            return self._encode(features, frames)
        tokens = self._project(features).flatten(1, 2)
        return VisionPrefix(tokens, [], frames)

    def _frames_given(self, pixel_values: Tensor | None, vision_features: Tensor | None) -> Tensor:
        """Return the one that is given, `(B, F, P, …)`, after a look at its shape."""
        given, name, shape = pixel_values, "pixel_values", "(B, F, P, 3, H, W)"
        if vision_features is not None:
            given, name, shape = vision_features, "vision_features", "(B, F, P, N², d_v)"
        if given is None:
            raise InputError("encode_images got neither pixel_values nor vision_features; give one of them")
        if given.ndim != shape.count(",") + 1 or given.shape[2] != self.config.parts_per_frame:
            wanted = f"{shape} with P = {self.config.parts_per_frame}"
            raise InputError(f"{name} has shape {tuple(given.shape)}; it must be {wanted}")
        return given

    def _encode(self, features: Tensor, frames: Tensor) -> VisionPrefix:
        """Encode `(R, P, N², d_v)` features."""
        projected = self._project(features)
        tokens = self._vision_tokens(features, projected)
        states: list[LayerStates] = []
        if self.pre_fusion is not None:
            states = self.pre_fusion.encode_vision(self._rows_to_read(projected))
            if self.config.fuse_compressed and self.config.compression != "none":
                tokens, states = self.pre_fusion.refine(tokens, states)
        return VisionPrefix(tokens, states, frames)

    def _project(self, features: Tensor) -> Tensor:
        projected: Tensor = self.multi_modal_projector(features)
        return projected if self.projector_norm is None else self.projector_norm(projected)

    def _rows_to_read(self, projected: Tensor) -> Tensor:
        """Lay `(R, P, N², d)` patches out for pre-fusion: tiles as one picture, then the whole one: `(R, V, d)`."""
        patches = projected if self.patch_context is None else self.patch_context(projected)
        whole = [] if patches.shape[1] == 1 else [patches[:, -1]]
        return torch.cat([join_tiles(patches, self.config.tiles), *whole], dim=1)

    def _vision_tokens(self, features: Tensor, projected: Tensor) -> Tensor:
        """Compress `(R, P, N², ·)` features or projected patches, and draw the tokens to words if there is a memory."""
        tokens = self._compress(features, projected)
        return tokens if self.word_memory is None else self.word_memory(tokens)

    def _compress(self, features: Tensor, projected: Tensor) -> Tensor:
        """Compress all tiles together, not the whole picture."""
        if self.compressor is None:
            return projected.flatten(1, 2)
        if self.config.compression_first:
            return self._project(self.compressor(join_tiles(features, self.config.tiles)))
        tokens: Tensor = self.compressor(join_tiles(projected, self.config.tiles))
        return tokens

    def fuse(self, words: Tensor, instruction: Tensor, chunks: Iterable[VisionPrefix]) -> Fused:
        """Let the instruction read the pictures (section 4.2), and average the fused words over the frames.

        The frames come in chunks that are forgotten one after the other; only their tokens are kept. The mean is
        taken in fp32.

        Args:
            words: `(B, L, d)` raw embeddings; no gradient flows back into them, as released.
            instruction: `(B, L)`, true where a word is fused; all else keeps its raw embedding.
            chunks: the frames of the batch, in order.
        """
        packed = pack(words.detach(), instruction)
        total = torch.zeros(packed.words.shape, dtype=torch.float32, device=words.device)
        frames = torch.zeros(len(words), dtype=torch.long, device=words.device)
        tokens: list[Tensor] = []
        reads = False  # in stage 1 nobody reads: there are vision tokens, and no states of pre-fusion
        for chunk in chunks:
            if len(chunk.frames) != len(words):
                raise InputError(f"{len(chunk.frames)} rows of pictures were given for {len(words)} texts")
            reads = reads or bool(chunk.states)
            if self.pre_fusion is not None and chunk.states and packed.words.shape[1]:
                rows = torch.arange(len(words), device=words.device)
                owner = rows.repeat_interleave(chunk.frames, output_size=len(chunk.tokens))
                fused = self.pre_fusion.fuse(packed.words[owner], packed.mask[owner], chunk.states)
                total = total.index_add(0, owner, fused.float())
            frames = frames + chunk.frames.to(frames.device)
            tokens.append(chunk.tokens)
        seen = torch.cat(tokens)
        if not reads:
            return Fused(words, seen, frames)
        mean = (total / frames.clamp(min=1)[:, None, None]).to(words.dtype)
        return Fused(packed.unpack(words, mean, frames > 0), seen, frames)

    def fused_words(self, input_ids: Tensor, instruction_mask: Tensor | None) -> Tensor:
        """Return which tokens of `(B, L)` pre-fusion reads and fuses, padding not yet taken away."""
        fused = input_ids != self.config.image_token_id
        if self.config.token_zero_is_padding:
            fused = fused & (input_ids != 0)
        return fused if instruction_mask is None else fused & instruction_mask.bool()

    def embed(
        self,
        input_ids: Tensor,
        vision: VisionPrefix | Iterable[VisionPrefix] | None,
        *,
        attention_mask: Tensor | None = None,
        instruction_mask: Tensor | None = None,
    ) -> Tensor:
        """Build the language model's input: fused words, raw answers, vision tokens in place: `(B, L, d)`.

        Args:
            input_ids: `(B, L)`.
            vision: the pictures of the batch, or their frames in chunks, each of which is read once.

        Raises:
            InputError: when image tokens and pictures do not fit together.
        """
        is_image = input_ids == self.config.image_token_id
        words: Tensor = self.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        if vision is None:
            if is_image.device.type != "meta" and bool(is_image.any()):
                raise InputError("the text holds image tokens but no pictures were given")
            return words
        instruction = self.fused_words(input_ids, instruction_mask) & _present(input_ids, attention_mask)
        fused = self.fuse(words, instruction, [vision] if isinstance(vision, VisionPrefix) else vision)
        check_frames(count_frames(is_image, fused.tokens.shape[1]), fused.frames)
        return place(fused.words, is_image, fused.tokens)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        vision_features: Tensor | None = None,
        vision_prefix: VisionPrefix | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run text and pictures through the model.

        Args:
            input_ids: `(B, L)` with C² image tokens a frame.
            pixel_values: `(B, F, P, 3, H, W)`; rows with fewer frames are padded at the end.
            attention_mask: `(B, L)`, or longer by what the cache holds.
            instruction_mask: `(B, L)`, true for the user's words, false for answers, which are never fused.
            vision_features: `(B, F, P, N², d_v)`, in place of `pixel_values`.
            vision_prefix: what `encode_images` gave, in place of both.

        Raises:
            InputError: when image tokens and pictures do not fit together.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise InputError("the model got neither input_ids nor inputs_embeds; give one of them")
            vision: VisionPrefix | Iterable[VisionPrefix] | None = vision_prefix
            if vision is None and (pixel_values is not None or vision_features is not None):
                frames = count_frames(input_ids == self.config.image_token_id, self.config.tokens_per_frame)
                check_room(frames, self._frames_given(pixel_values, vision_features))
                vision = self.encode_in_chunks(pixel_values, vision_features, frames)
            inputs_embeds = self.embed(
                input_ids, vision, attention_mask=attention_mask, instruction_mask=instruction_mask
            )
        out: BaseModelOutputWithPast = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        return out


def _present(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return which tokens are no padding, `(B, L)`; a static cache brings a mask of `(B, 1, L, longest)`."""
    if isinstance(attention_mask, dict):  # one mask a kind of layer, all of which see the same padding
        attention_mask = next(mask for mask in attention_mask.values() if mask is not None)
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    if attention_mask.ndim == 4:
        own = attention_mask[:, 0].diagonal(dim1=-2, dim2=-1)
        return own if own.dtype == torch.bool else own == 0
    return attention_mask[:, -input_ids.shape[1] :].bool()
