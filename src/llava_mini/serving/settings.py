"""Fields of a request that are not followed: those that change no answer are left aside, all others are refused.

What is not known here is refused, too, as OpenAI's own API does: a server cannot know of a new field that it changes
nothing.
"""

from typing import Any

_HARMLESS = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
        "prediction",
        "request_id",
        "priority",
        "cache_salt",
    }
)
"""Fields that are about bookkeeping, speed or tools, and never about the answer."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "typical_p": (1,),
    "mirostat": (0,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "echo": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
}
"""Fields with the values that change nothing; null never does."""


def check_others(fields: dict[str, Any]) -> None:
    """Look at the fields of a request that nothing else looks at.

    Raises:
        ValueError: for one that might change the answer.
    """
    for name, value in fields.items():
        if value is None or name in _HARMLESS or value in _NEUTRAL.get(name, ()):
            continue
        shown = name[:60].encode("ascii", "replace").decode()
        raise ValueError(f"{shown} is not supported here; leave it out")
