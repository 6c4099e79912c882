"""What comes with the weights: the tokenizer, the template, and how the tower wants its pictures."""

import json
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_mini.checkpoints.tensors import read_json
from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import LlavaMiniError, ModelError
from llava_mini.inputs.chat import IMAGE_TOKEN, VIDEO_TOKEN
from llava_mini.inputs.processor import LlavaMiniProcessor, side_px

_MEDIA = (IMAGE_TOKEN, VIDEO_TOKEN)
_HUGE = 10**20  # what tokenizers write when they know no limit


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a folder.

    Raises:
        ModelError: when there is none, or none that can be read.
    """
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # missing and damaged files raise many kinds
        raise ModelError(f"{folder} holds no tokenizer that can be read; give its folder with --tokenizer") from error
    return found


def join_processor(
    config: LlavaMiniConfig, words: PreTrainedTokenizerBase, template: str, pictures: Path | None
) -> LlavaMiniProcessor:
    """Join tokenizer and template with the tower's own preparation of pictures, or CLIP's."""
    side = config.vision.image_size
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    if pictures is not None and (pictures / "preprocessor_config.json").is_file():
        try:
            image_processor = CLIPImageProcessorPil.from_pretrained(str(pictures), local_files_only=True)
        except Exception as error:  # damaged files raise many kinds
            raise ModelError(f"{pictures / 'preprocessor_config.json'} cannot be read: {error}") from error
        if side_px(image_processor) != side:
            raise ModelError(
                f"{pictures / 'preprocessor_config.json'} prepares pictures of {side_px(image_processor)} px; "
                f"the tower reads {side}"
            )
    if words.pad_token_id is None:
        words.pad_token = words.eos_token
    if words.model_max_length > _HUGE:
        words.model_max_length = config.text.max_position_embeddings
    try:
        return LlavaMiniProcessor.from_config(config, image_processor, words, template)
    except LlavaMiniError:
        raise
    except Exception as error:
        raise ModelError(f"the tokenizer cannot take {IMAGE_TOKEN}: {' '.join(str(error).split())}") from error


def forget_media_tokens(folder: Path, vocabulary: int) -> None:
    """Take our placeholders out of a tokenizer again: the released embedding table has no rows for them."""
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer.json"
    words = read_json(path)
    ours = [token for token in words["added_tokens"] if token["content"] in _MEDIA and token["id"] >= vocabulary]
    words["added_tokens"] = [token for token in words["added_tokens"] if token not in ours]
    path.write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    fields = read_json(path)
    for key in ("extra_special_tokens", "additional_special_tokens"):
        if isinstance(fields.get(key), list):
            fields[key] = [token for token in fields[key] if token not in {one["content"] for one in ours}]
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False), encoding="utf-8")
