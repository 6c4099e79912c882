"""Each chat template, token by token: one start token, the released system sentence, answers marked with their end."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tiny import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llava_mini.errors import InputError
from llava_mini.inputs.chat import read_template, tokenize_chat

GOLDEN = Path(os.environ.get("LLAVA_MINI_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
LLAMA_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
IMAGE = {"type": "image"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def letters(special: list[str], *, bos: str | None, eos: str, spaces: str) -> PreTrainedTokenizerFast:
    """A tokenizer of one token a letter, spaces written as given, and some special tokens."""
    alphabet = sorted({*map(chr, range(33, 127)), spaces, "Ċ", "\n"})
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    if spaces == "▁":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*special, "<image>", "<video>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)


LLAMA = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def llama() -> PreTrainedTokenizerFast:
    return letters(LLAMA, bos="<|begin_of_text|>", eos="<|eot_id|>", spaces="Ġ")


def vicuna() -> PreTrainedTokenizerFast:
    return letters(["<s>", "</s>"], bos="<s>", eos="</s>", spaces="▁")


def chatml() -> PreTrainedTokenizerFast:
    return letters(["<|im_start|>", "<|im_end|>"], bos=None, eos="<|im_end|>", spaces="Ġ")


def tokens(
    tokenizer: PreTrainedTokenizerFast, template: str, *messages: Any, **render: Any
) -> tuple[list[str], list[str]]:
    """All tokens, and those of answers."""
    chat = tokenize_chat(tokenizer, list(messages), read_template(template), **render)
    names = tokenizer.convert_ids_to_tokens(chat.ids)
    return names, [name for name, answer in zip(names, chat.answers, strict=True) if answer]


def spelled(*pieces: str, space: str = "Ġ") -> list[str]:
    """Special tokens whole, all else letter by letter."""
    named = {*LLAMA, "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"}
    return [
        token
        for piece in pieces
        for token in (
            [piece] if piece in named else piece.replace(" ", space).replace("\n", "Ċ" if space == "Ġ" else "\n")
        )
    ]


DIALOGUE = (
    {"role": "user", "content": [IMAGE, text("Who?")]},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Why?"},
)


def llama_turn(role: str, *content: str) -> tuple[str, ...]:
    return ("<|start_header_id|>", role, "<|end_header_id|>", "\n\n", *content, "<|eot_id|>")


def test_llama_31_token_by_token() -> None:
    found, answers = tokens(llama(), "llama-3.1", *DIALOGUE, add_generation_prompt=True)
    assert found == spelled(
        "<|begin_of_text|>",
        *llama_turn("system", LLAMA_SYSTEM),
        *llama_turn("user", "<image>", "\nWho?"),
        *llama_turn("assistant", "A cat."),
        *llama_turn("user", "Why?"),
        *llama_turn("assistant")[:-1],
    )
    assert answers == spelled("A cat.", "<|eot_id|>")


def test_vicuna_11_token_by_token() -> None:
    found, answers = tokens(vicuna(), "vicuna-v1.1", *DIALOGUE, add_generation_prompt=True)
    assert found == spelled(
        "<s>",
        VICUNA_SYSTEM,
        " USER: ",
        "<image>",
        "\nWho? ASSISTANT: A cat.",
        "</s>",
        "USER: Why? ASSISTANT:",
        space="▁",
    )
    assert answers == spelled("A cat.", "</s>", space="▁")


def test_chatml_token_by_token() -> None:
    found, answers = tokens(chatml(), "chatml", *DIALOGUE, add_generation_prompt=True)
    assert found == spelled(
        "<|im_start|>", "user\nPicture: ", "<image>", ".\nWho?", "<|im_end|>", "\n",
        "<|im_start|>", "assistant\nA cat.", "<|im_end|>", "\n",
        "<|im_start|>", "user\nWhy?", "<|im_end|>", "\n",
        "<|im_start|>", "assistant\n",
    )  # fmt: skip
    assert answers == spelled("A cat.", "<|im_end|>")


TEMPLATES = {"llama-3.1": llama, "vicuna-v1.1": vicuna, "chatml": chatml}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_system_sentence_of_ones_own_replaces_the_default(template: str) -> None:
    system = {"role": "system", "content": "Be brief."}
    found, _ = tokens(TEMPLATES[template](), template, system, *DIALOGUE)
    whole = "".join(found).replace("Ġ", " ").replace("▁", " ")
    assert "Be brief." in whole
    assert LLAMA_SYSTEM not in whole
    assert VICUNA_SYSTEM not in whole


@pytest.mark.parametrize("template", TEMPLATES)
def test_pictures_stand_where_they_were_put_between_the_words(template: str) -> None:
    message = {"role": "user", "content": [text("One:"), IMAGE, text("two:"), IMAGE, text("alike?")]}
    found, _ = tokens(TEMPLATES[template](), template, message)
    whole = "".join(found)
    order = [whole.index("One:"), whole.index("<image>"), whole.index("two:"), whole.rindex("<image>")]
    assert order == sorted(order)
    assert whole.index("alike?") > order[-1]


@pytest.mark.parametrize("template", TEMPLATES)
def test_control_tokens_that_a_user_types_stay_letters(template: str) -> None:
    tokenizer = TEMPLATES[template]()
    typed = f"{tokenizer.eos_token}<image>{tokenizer.bos_token or ''}"
    plain, _ = tokens(tokenizer, template, {"role": "user", "content": "x"})
    found, _ = tokens(tokenizer, template, {"role": "user", "content": typed})
    special = set(tokenizer.get_added_vocab())
    assert [token for token in found if token in special] == [token for token in plain if token in special]


@pytest.mark.parametrize("template", TEMPLATES)
def test_there_is_one_start_token_and_a_dialogue_only_grows(template: str) -> None:
    tokenizer = TEMPLATES[template]()
    found, _ = tokens(tokenizer, template, *DIALOGUE, add_generation_prompt=True)
    assert tokenizer.bos_token is None or found.count(tokenizer.bos_token) == 1
    asked, _ = tokens(tokenizer, template, DIALOGUE[0], add_generation_prompt=True)
    assert found[: len(asked)] == asked


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no recordings in {GOLDEN}")
def test_the_recorded_dialogue_has_the_recorded_ids_and_labels() -> None:
    recorded = json.loads((GOLDEN / "case6_multiturn_text.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "official_tiny" / "tokenizer")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
    roles = {"human": "user", "gpt": "assistant"}
    messages = []
    for turn in recorded["conversation"]:
        parts = turn["value"].split("<image>\n")
        content = [IMAGE, text(parts[1])] if len(parts) == 2 else turn["value"]
        messages.append({"role": roles[turn["from"]], "content": content})
    # The recording ends with the beginning of another answer: the released program asks for one in training too.
    chat = tokenize_chat(tokenizer, messages, read_template("llama-3.1"), add_generation_prompt=True)
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert [-200 if token == image else token for token in chat.ids] == recorded["input_ids"]
    labels = [token if answer else -100 for token, answer in zip(chat.ids, chat.answers, strict=True)]
    assert labels == recorded["labels"]
    assert load_file(GOLDEN / "case6_multiturn_train_c1.safetensors")["labels"].tolist() == [labels]


def test_vicuna_tokenizes_a_question_in_parts_as_it_does_a_plain_one() -> None:
    # A sentencepiece-like tokenizer puts a space mark before every piece that it is given.
    words = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    words.train_from_iterator(["USER: What is this? ASSISTANT: A chat between a user and an assistant."], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    template = read_template("vicuna-v1.1")
    plain = [{"role": "user", "content": "What is this?"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}]}]
    ids = [tokenize_chat(tokenizer, one, template, add_generation_prompt=True).ids for one in (plain, parts)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("messages", [["tool"], ["user", "system"]])
def test_vicuna_refuses_roles_that_it_does_not_know(messages: list[str]) -> None:
    spoken = [{"role": role, "content": "hello"} for role in messages]
    with pytest.raises(InputError, match="not another"):
        tokenize_chat(tiny_tokenizer(), spoken, read_template("vicuna-v1.1"))
