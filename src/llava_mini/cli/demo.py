"""`llava-mini demo`: the bundled pictures and video, with questions."""

import sys
from pathlib import Path

from llava_mini.cli import options

QUESTIONS = {
    "apple.png": ("What is this?", "What colour is the apple?"),
    "shapes.png": ("What shape is the red object?", "What colour is the square?", "Is there a star in the picture?"),
    "counting.png": ("How many stars are there?", "What colour is the background?"),
    "cat.png": ("What animal is this?",),
    "house.png": ("What do you see in the picture?",),
    "video.mp4": ("What shape do you see?",),
}


def demo(model: options.Model = None, device: options.Device = "auto", dtype: options.Dtype = "auto") -> None:
    """Ask several questions about the bundled pictures and the bundled video.

    Example: llava-mini demo
    """
    folder = Path(__file__).parents[1] / "examples"
    print("loading the model (the first time it is assembled, about half a minute)", file=sys.stderr)
    assistant = options.load_assistant(model, device, dtype)
    for file, questions in QUESTIONS.items():
        for question in questions:
            answer = assistant.ask(question, folder / file)
            tokens = f"{answer.vision_tokens} vision token{'s' if answer.vision_tokens > 1 else ''}"
            print(f"{file:<13} {question:<34} → {answer.text}")
            print(f"{'':<13} {tokens}, first token after {answer.seconds_to_first_token:.2f} s", flush=True)
