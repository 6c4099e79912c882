"""`llava-mini demo`: the bundled pictures and video, with questions."""

from pathlib import Path

from llava_mini.cli import options

QUESTIONS = {
    "shapes.png": (
        "How many shapes are there?",
        "What shape is the red object?",
        "What colour is the square?",
        "Is the circle to the left of the square?",
        "Is the square to the left of the circle?",
    ),
    "counting.png": (
        "How many stars are there?",
        "What shape is this?",
        "What color are the stars?",
        "What color is the background?",
    ),
    "apple.png": (
        "Is there an apple in the picture?",
        "Is there a banana in the picture?",
        "What colour is the apple?",
    ),
    "video.mp4": ("What appears first?", "What color is the circle?"),
}


def demo(model: options.Model = None, device: options.Device = "auto", dtype: options.Dtype = "auto") -> None:
    """Ask several questions about the bundled pictures and the bundled video.

    Example: llava-mini demo
    """
    folder = Path(__file__).parents[1] / "examples"
    assistant = options.load_assistant(model, device, dtype)
    for file, questions in QUESTIONS.items():
        for question in questions:
            answer = assistant.ask(question, folder / file)
            tokens = f"{answer.vision_tokens} vision token{'s' if answer.vision_tokens > 1 else ''}"
            print(f"{file:<13} {question:<40} → {answer.text}")
            print(f"{'':<13} {tokens}, first token after {answer.seconds_to_first_token:.2f} s", flush=True)
