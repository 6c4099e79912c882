"""Take the README's picture of the page that `llava-mini ui` has opened: `python tools/picture_page.py`."""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "src" / "llava_mini" / "examples"
PATIENCE_MS = 120_000


def ask(page: Page, question: str, file: str | None = None) -> None:
    """Ask, and wait until answer and panel are there."""
    if file is not None:
        page.locator("input[type=file]").first.set_input_files(EXAMPLES / file)
        expect(page.locator(".thumbnail-item")).to_have_count(1)
    answers = page.get_by_test_id("bot").count()
    page.get_by_role("textbox").first.fill(question)
    page.get_by_role("textbox").first.press("Enter")
    expect(page.get_by_test_id("bot")).to_have_count(answers + 1)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    expect(page.locator("#panel img").first).to_be_visible()
    expect(page.get_by_text("processing")).to_have_count(0)


def main() -> None:
    """Ask about a video, then about a picture in a new conversation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", default="http://127.0.0.1:7860")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "ui.png")
    parser.add_argument("--width", type=int, default=1280)
    given = parser.parse_args()
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": given.width, "height": 800})
        page.goto(given.page)
        ask(page, "What color is the circle?", "video.mp4")
        page.get_by_role("button", name="New chat").click()
        expect(page.locator("#panel img")).to_have_count(0)
        ask(page, "What shape is the red object?", "shapes.png")
        taken = Image.open(io.BytesIO(page.screenshot(full_page=given.width < 800, animations="disabled")))
        browser.close()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    taken.convert("RGB").save(given.out, optimize=True)


if __name__ == "__main__":
    main()
