"""The report in a browser: layer and sample are chosen, and what is drawn follows."""

from pathlib import Path

import numpy as np
import torch
from browser import browser_page, needs_chromium
from PIL import Image
from tiny import tiny_model, tiny_processor

from llava_mini import Assistant
from llava_mini.analysis.attention import Asked, attention_profile
from llava_mini.analysis.fusion import read
from llava_mini.analysis.removal import Question, as_rows, removal_curve
from llava_mini.analysis.report import write_report
from llava_mini.analysis.subjects import MiniSubject
from llava_mini.inputs.media import Picture

_NOISE = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
PICTURES = [Picture(Image.new("RGB", (40, 40), "red"), "red"), Picture(Image.fromarray(_NOISE), "noise")]
QUESTIONS = ["What is red?", "What is </b> this?"]


def report(folder: Path, **changes: object) -> Path:
    """The report of two questions to a tiny model."""
    torch.manual_seed(0)
    model = tiny_model(**changes)
    subject = MiniSubject(Assistant(model, tiny_processor(model.config), "tiny"))
    asked = [Asked(text, picture, "It is so.") for text, picture in zip(QUESTIONS, PICTURES, strict=True)]
    told = {
        "profile": attention_profile(subject, asked).as_dict(),
        "removal": as_rows(removal_curve(subject, [Question("What?", PICTURES[0], bool)], step=1, window=1)),
    }
    if model.config.fusion_layers:
        told["readings"] = [read(subject, one.question, one.media).as_dict() for one in asked]
    write_report(told, [[picture.image] for picture in PICTURES], folder / "report.html")
    return folder / "report.html"


@needs_chromium
def test_the_report_shows_the_sample_and_the_layer_that_are_chosen(tmp_path: Path) -> None:
    path = report(tmp_path, compression="none", fusion_layers=0)
    with browser_page() as page:
        page.goto(path.as_uri())
        assert page.locator("#question").inner_text() == QUESTIONS[0]
        assert page.locator("#charts svg").count() == 3
        assert page.locator("#removal polyline").count() == 6
        assert page.locator("#charts svg").first.locator("polyline").count() == 3  # to instruction, vision, first token
        assert page.locator("#charts polygon").count() == 7  # none of first tokens
        rows = page.locator("#removed tr")
        assert rows.count() == 1 + 2 + 2 + 2 + 3 + 3
        assert rows.last.inner_text().split("\t")[:2] == ["hidden", "2–2"]
        page.wait_for_function("document.querySelector('#pictures canvas').width === 40")
        first = page.locator("#pictures canvas").evaluate("node => node.toDataURL()")
        page.locator("#sample").select_option(index=1)
        assert page.locator("#question").inner_text() == QUESTIONS[1]
        page.locator("#layer").fill("0")
        assert "layer 0" in page.locator("#pictures").inner_text()
        page.wait_for_function(
            "before => { const node = document.querySelector('#pictures canvas');"
            " return node.width === 40 && node.toDataURL() !== before }",
            arg=first,
        )


@needs_chromium
def test_the_report_shows_what_a_word_read_before_the_language_model(tmp_path: Path) -> None:
    with browser_page() as page:
        page.goto(report(tmp_path).as_uri())
        words = page.locator("#words span")
        assert words.count() > 2
        words.nth(2).click()
        assert "chosen" in (words.nth(2).get_attribute("class") or "")
        assert "fusion layer 1" in page.locator("#reading").inner_text()
        assert page.locator("#charts svg").count() == 2  # one vision token: no entropy
        assert "what the compression query looked at" in page.locator("#pictures").inner_text()
