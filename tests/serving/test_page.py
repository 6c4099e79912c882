"""The page in headless Chromium: drop, ask, stream, stop, retry, edit, history, and what the model looked at.

A tiny model, whose steps wait for the test, so that nothing hangs on how fast it is.
"""

import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from corpus import BLUE, RED, video
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from served import png, serving, tiny_assistant
from tiny import tiny_tokenizer

from llava_mini.cli.serve import cost_of
from llava_mini.serving.asking import Api, Settings
from llava_mini.serving.batch import RunningBatch
from llava_mini.serving.listening import listen
from llava_mini.serving.page import build_page, open_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--use-fake-device-for-media-stream"]
FLAGS += ["--use-fake-ui-for-media-stream"]
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)


class Gate:
    """Lets as many steps of the model through as it is told to; each step writes an "a"."""

    def __init__(self) -> None:
        self.steps: float = math.inf
        self.changed = threading.Condition()

    def let(self, steps: float) -> None:
        with self.changed:
            self.steps += steps
            self.changed.notify_all()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold all steps that are not let through."""
        self.steps = 0
        try:
            yield
        finally:
            self.let(math.inf)

    def around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        letter = tiny_tokenizer().convert_tokens_to_ids("a")

        def gated(batch: RunningBatch, tokens: Any) -> Any:
            with self.changed:
                assert self.changed.wait_for(lambda: self.steps > 0, timeout=300)
                self.steps -= 1
            logits = step(batch, tokens)
            logits[..., letter] += 1e4
            return logits

        return gated


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server of a tiny model, its page, and the gate before its steps."""
    assistant = tiny_assistant()
    assistant.model.config.text.max_position_embeddings = 4096
    gate = Gate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("dropped")))
        patch.setattr(RunningBatch, "step", gate.around(RunningBatch.step))
        with serving(assistant, cost=cost_of(assistant)) as api:
            page = build_page(Api(api), Settings(max_tokens=24))
            try:
                yield SimpleNamespace(api=api, gate=gate, address=open_page(page, listen("127.0.0.1", 0)))
            finally:
                page.close(verbose=False)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(served: Any, browser: Browser) -> Iterator[Page]:
    """A fresh browser on the page; afterwards nothing was complained about, and nothing had left loopback."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, permissions=["camera"])
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    elsewhere: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: None if asked.url.startswith((served.address, "data:", "blob:")) else elsewhere.append(asked.url),
    )
    page.goto(served.address)
    expect(page.get_by_role("textbox").first).to_be_editable()
    yield page
    context.close()
    assert complaints == []
    assert elsewhere == []


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    path.write_bytes(png())
    return path


def ask(page: Page, question: str, *files: Path) -> None:
    """Drop files, type, and press Enter."""
    if files:
        page.locator("input[type=file]").first.set_input_files(files)
        expect(page.locator(".thumbnail-item")).to_have_count(len(files))
    page.get_by_role("textbox").first.fill(question)
    page.get_by_role("textbox").first.press("Enter")


def stop(page: Page) -> Locator:
    return page.get_by_role("button", name="Stop")


def answered(page: Page) -> str:
    """Wait for the end of the answer: the box of the question is emptied and unlocked after all else."""
    expect(page.get_by_test_id("bot").last).to_be_visible()
    expect(stop(page)).to_have_count(0)
    expect(page.get_by_test_id("submit-button")).to_be_visible()
    expect(page.get_by_role("textbox").first).to_be_editable()
    return page.get_by_test_id("bot").last.inner_text()


def running(served: Any) -> float:
    lines = httpx.get(f"{served.api}/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("llava_mini_running ")))


@NEEDS_CHROMIUM
def test_an_answer_streams_and_stops_and_the_heat_map_is_seen(page: Page, served: Any, picture: Path) -> None:
    answer = page.get_by_test_id("bot").last
    with served.gate.held():
        ask(page, "what is this", picture)
        served.gate.let(4)
        expect(answer).to_contain_text("aaaa")
        assert "aaaaa" not in answer.inner_text()
        served.gate.let(4)
        expect(answer).to_contain_text("aaaaaaaa")
        stop(page).click()
        expect(page.get_by_test_id("submit-button")).to_be_visible()
        served.gate.let(2)  # within a step, the server notices that nobody waits
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while running(served):
            assert time.monotonic() < deadline
    written = answer.inner_text()
    assert written.count("a") < 20
    expect(page.locator("#panel img")).to_have_count(1)
    assert page.locator("#panel img").evaluate("image => image.naturalWidth") > 200
    expect(page.locator("#panel .line")).to_contain_text("1 vision token instead of 16")
    assert answer.inner_text() == written


@NEEDS_CHROMIUM
def test_retry_edit_and_history_keep_the_picture(page: Page, served: Any, picture: Path) -> None:
    ask(page, "what is this", picture)
    first = answered(page)
    expect(page.locator("#panel img")).to_have_count(1)
    with served.gate.held():
        page.get_by_role("button", name="Retry").click()
        expect(stop(page)).to_be_visible()
    assert answered(page) == first
    page.get_by_role("button", name="Edit").last.click()
    page.locator(".edit-textarea").fill("how many")
    page.locator("#conversation").get_by_role("button", name="Submit").click()
    expect(page.get_by_test_id("user").last).to_contain_text("how many")
    answered(page)
    expect(page.get_by_test_id("user").locator("img")).to_have_count(1)
    kept = page.get_by_test_id("dataset-cell-0-0")
    expect(kept).to_contain_text("how many")  # kept when it began, and anew after its last words
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_test_id("bot")).to_have_count(0)
    expect(page.locator("#panel img")).to_have_count(0)
    kept.click()
    expect(page.get_by_test_id("user").locator("img")).to_have_count(1)
    expect(page.locator("#panel img")).to_have_count(1)


@NEEDS_CHROMIUM
def test_a_video_shows_its_frames_with_their_times(page: Page, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(video([RED] * 32 + [BLUE] * 32))
    ask(page, "what", film)
    answered(page)
    expect(page.locator("#panel .strip figure").first).to_be_visible()
    expect(page.locator("#panel figcaption").first).to_contain_text("0:00 · ")
    expect(page.locator("#panel h3")).to_contain_text("Key moments: 0:0")


@NEEDS_CHROMIUM
def test_what_goes_wrong_is_one_line_and_an_example_fills_the_question(page: Page, tmp_path: Path) -> None:
    page.locator(".example").first.click()
    expect(page.locator(".thumbnail-item")).to_have_count(1)
    expect(page.get_by_role("textbox").first).to_have_value("What shape is the red object?")
    page.get_by_role("textbox").first.press("Enter")
    answered(page)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film")
    ask(page, "and this", broken)
    expect(page.get_by_text("Not answered")).to_be_visible()
    assert "Traceback" not in page.content()


@NEEDS_CHROMIUM
def test_a_photo_of_the_webcam_is_put_beside_the_question(page: Page) -> None:
    page.get_by_role("button", name="Webcam").click()
    page.locator("#camera").get_by_role("button", name="access").click()
    page.wait_for_function("(document.querySelector('#camera video') || {}).videoWidth > 0")
    page.locator("#camera").get_by_role("button", name="capture").click()
    expect(page.locator(".thumbnail-item")).to_have_count(1)


def test_only_this_machines_browser_and_this_page_are_let_in(served: Any) -> None:
    own = httpx.get(served.address)
    assert own.status_code == 200
    assert "default-src 'self'" in own.headers["content-security-policy"]
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}):
        for response in (
            httpx.get(served.address, headers=headers),
            httpx.post(f"{served.address}gradio_api/upload", files={"files": b"x"}, headers=headers),
        ):
            assert response.status_code == 403
            assert "this machine's own browser" in response.json()["error"]["message"]


def test_files_that_were_not_dropped_are_not_served(served: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    for path in (secret, Path(__file__), "/etc/passwd"):
        assert httpx.get(f"{served.address}gradio_api/file={path}").status_code in (403, 404)
