"""The command answers on stdout, says the rest on stderr, and a user's mistake is one line and exit code 1."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import corpus
import pytest
from PIL import Image
from tiny import tiny_model, tiny_processor

from llava_mini import Assistant, cli
from llava_mini.cli import options
from llava_mini.reply import Sampling

RED = corpus.RED


class Ended(NamedTuple):
    """How a run of the command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny = tiny_model()
    tiny.generation_config.eos_token_id = None
    tiny.generation_config.pad_token_id = 0
    tiny.save_pretrained(folder)
    tiny_processor(tiny.config).save_pretrained(folder)
    return folder


@pytest.fixture
def run(model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `llava-mini` with a tiny model."""

    def ended(verb: str, *arguments: str | Path, stdin: str = "") -> Ended:
        common = ["--model", str(model), "--device", "cpu", "--max-new-tokens", "5"]
        monkeypatch.setattr(sys, "argv", ["llava-mini", verb, *common, *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            code = int(error.code or 0)
        return Ended(code, *capfd.readouterr())

    return ended


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (50, 40), RED).save(path)
    return path


def mistaken(ended: Ended) -> str:
    """Check that a run ended as a user's mistake does; return its line."""
    assert ended.code == 1, ended
    assert ended.out == ""
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("error: ")
    return lines[0]


def test_the_answer_is_on_stdout_and_what_it_cost_on_stderr(run: Run, model: Path, picture: Path) -> None:
    expected = Assistant.load(model, device="cpu").ask("What is this?", picture, sampling=Sampling(max_new_tokens=5))
    ended = run("ask", picture, "What is this?")
    assert ended.code == 0
    assert ended.out.strip() == expected.text
    assert ended.out.endswith("\n")
    assert ended.err.startswith("[vision tokens 1 · prompt tokens ")
    assert len(ended.err.splitlines()) == 1


def test_json_is_one_object_with_the_promised_keys(run: Run, model: Path, picture: Path) -> None:
    ended = run("ask", picture, "What is this?", "--json")
    assert ended.code == 0
    assert len(ended.out.splitlines()) == 1
    assert ended.err == ""
    said = json.loads(ended.out)
    assert list(said) == [
        "answer",
        "vision_tokens",
        "prompt_tokens",
        "seconds_to_first_token",
        "tokens_per_second",
        "model",
    ]
    assert said["vision_tokens"] == 1
    assert said["model"] == str(model)
    assert said["answer"] == run("ask", picture, "What is this?").out.strip()


def test_a_question_needs_no_file_and_takes_several(run: Run, picture: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(corpus.video([RED] * 16))
    assert json.loads(run("ask", "What is this?", "--json").out)["vision_tokens"] == 0
    assert json.loads(run("ask", picture, clip, "What is this?", "--json").out)["vision_tokens"] == 3


def test_a_sampled_answer_is_the_same_for_a_seed(run: Run, picture: Path) -> None:
    options = ("--temperature", "2", "--seed", "3")
    assert run("ask", picture, "What?", *options).out == run("ask", picture, "What?", *options).out


def test_questions_that_cannot_be_asked_are_refused(run: Run, picture: Path) -> None:
    assert "the question is empty" in mistaken(run("ask", picture, ""))
    assert "the question must stand last" in mistaken(run("ask", picture))
    assert "the question must stand last" in mistaken(run("ask", "What is this?", picture))
    assert "no such file: What is this?" in mistaken(run("ask", "What is this?", "no.png"))
    assert "the model's context of 256" in mistaken(run("ask", picture, "What is this? " * 200))
    assert "max_new_tokens is 0" in mistaken(run("ask", picture, "What?", "--max-new-tokens", "0"))
    assert "temperature is nan" in mistaken(run("ask", picture, "What?", "--temperature", "nan"))
    assert "seed is -1" in mistaken(run("ask", picture, "What?", "--seed", "-1"))
    assert "17 files were given" in mistaken(run("ask", *[picture] * 17, "What?"))


def test_a_model_device_or_dtype_that_is_not_there_is_refused(run: Run, picture: Path, tmp_path: Path) -> None:
    assert "there is no folder" in mistaken(run("ask", picture, "What?", "--model", tmp_path / "none"))
    assert "device 'gpu' cannot be used here" in mistaken(run("ask", picture, "What?", "--device", "gpu"))
    assert "dtype 'int4' is unknown" in mistaken(run("ask", picture, "What?", "--dtype", "int4"))


@pytest.mark.parametrize("question", ["<image>", "<|im_end|>" * 3, "\udcff\x00\n\t", "日本語 🙂", "-", "a" * 5000])
def test_odd_questions_are_answered_or_refused_in_one_line(run: Run, picture: Path, question: str) -> None:
    ended = run("ask", picture, question)
    assert "Traceback" not in ended.err
    assert ended.code == 0 or mistaken(ended)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty.png": lambda: b"",
    "text.jpg": lambda: b"What is this?\n" * 99,
    "page.svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "bomb.png": corpus.png_bomb,
    "grey16.png": corpus.grey_16_bit,
    "rgb16.png": corpus.rgb_16_bit,
    "palette.png": corpus.palette_with_transparency,
    "turned.jpg": lambda: corpus.turned_by_exif(6),
    "moving.gif": lambda: corpus.animation([RED, corpus.BLUE], 700),
    "moving.webp": lambda: corpus.animation([RED, corpus.BLUE], 700, "WEBP"),
    "cmyk.jpg": lambda: corpus.encoded(corpus.red_blue().convert("CMYK"), "JPEG"),
    "one_pixel.png": lambda: corpus.encoded(Image.new("1", (1, 1)), "PNG"),
    "line.png": lambda: corpus.encoded(Image.new("RGB", (4000, 1)), "PNG"),
    "cut.jpg": lambda: corpus.encoded(corpus.red_blue(), "JPEG")[:-200],
    "tiff.png": lambda: corpus.encoded(corpus.red_blue(), "TIFF"),
    "sound.mp4": corpus.sound_only,
    "upright.mov": lambda: corpus.turned_video((RED, corpus.BLUE)),
    "cut.mp4": lambda: corpus.video([RED] * 16)[:700],
    "broken.webm": lambda: corpus.broken_in_the_middle(
        corpus.video([RED] * 16, container="webm", codec="libvpx"), 300, 600
    ),
    "zeros.mkv": lambda: bytes(10_000),
    "list.m3u8": lambda: b"#EXTM3U\nfile:///etc/passwd\n",
}
ANSWERED = {"grey16.png", "rgb16.png", "palette.png", "turned.jpg", "moving.gif", "moving.webp", "cmyk.jpg"}


@pytest.mark.parametrize("name", HOSTILE)
def test_any_file_is_answered_or_refused_in_one_line(run: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(HOSTILE[name]())
    ended = run("ask", path, "What is this?")
    if name in ANSWERED or ended.code == 0:
        assert ended.code == 0
        assert ended.out.strip()
    else:
        assert name in mistaken(ended)


def test_folders_pipes_and_addresses_are_refused(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for file in (tmp_path, tmp_path / "pipe.png", "/dev/zero", "https://a.b/c.png", "x" * 5000, "a\x00b", "a\nb"):
        mistaken(run("ask", file, "What is this?"))


def test_chat_answers_a_line_at_a_time_until_an_empty_one(run: Run, picture: Path) -> None:
    ended = run("chat", picture, stdin="What is this?\nWhat colour?\n\nnever asked\n")
    assert ended.code == 0
    assert len(ended.err.splitlines()) == 2
    assert all(line.startswith("[vision tokens 1 ·") for line in ended.err.splitlines())
    assert ended.out.startswith(run("ask", picture, "What is this?").out)
    assert run("chat", stdin="What is this?").code == 0  # without a file, the last line without its end
    assert run("chat", picture, stdin="") == Ended(0, "", "")
    assert "no such file" in mistaken(run("chat", "no.png", stdin="What?\n"))


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["train", "--help"], ["data", "--help"]])
def test_help_is_instant_because_it_loads_no_torch(arguments: list[str]) -> None:
    command = Path(sys.executable).parent / "llava-mini"
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{str(command)!r}, *{arguments!r}]\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'av', 'numpy', 'PIL'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"
    assert "Usage: llava-mini" in done.stdout


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(corpus.video([RED] * 48))
    return path


def test_json_of_a_video_tells_when_each_frame_appears_and_how_much_it_was_attended_to(run: Run, clip: Path) -> None:
    said = json.loads(run("ask", clip, "What is this?", "--json", "--fps", "0.5").out)
    assert [(frame["file"], frame["time_s"]) for frame in said["frames"]] == [(str(clip), t) for t in (1.0, 3.0, 5.0)]
    assert all(0 < frame["attention"] < 1 for frame in said["frames"])


def test_moments_are_printed_with_the_answer_in_the_order_of_time(run: Run, clip: Path) -> None:
    ended = run("ask", clip, "What is this?", "--moments", "2")
    _, *moments = ended.out.splitlines()
    assert len(moments) == 2
    assert moments == sorted(moments)
    assert all(re.fullmatch(rf"00:00:0\d  \d\.\d\d % of the attention  {clip}", line) for line in moments)


def test_a_stretch_and_a_rate_can_be_asked_for(run: Run, clip: Path) -> None:
    def frames(*options: str) -> int:
        tokens: int = json.loads(run("ask", clip, "What?", "--json", *options).out)["vision_tokens"]
        return tokens

    assert frames() == 6
    assert frames("--start", "0:02", "--end", "4") == 2
    assert frames("--fps", "2", "--max-frames", "5") == 5
    assert frames("--hd") == 6
    assert "'later' is no time; write 90, 1:30 or 0:01:30" in mistaken(run("ask", clip, "What?", "--start", "later"))
    assert "must lie in" in mistaken(run("ask", clip, "What?", "--start", "1:00:00"))
    assert "max_frames (-3) must be 1 or more" in mistaken(run("ask", clip, "What?", "--max-frames", "-3"))
    assert "fps (-1.0) must be a number above 0" in mistaken(run("ask", clip, "What?", "--fps", "-1"))


def test_times_are_read_and_written() -> None:
    assert [options.seconds(text) for text in ("90", "1:30", "0:01:30.5")] == [90, 90, 90.5]
    assert [options.clock(time_s) for time_s in (0.5, 751.9, 36000)] == ["00:00:00", "00:12:31", "10:00:00"]


def test_damaged_packets_are_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.mkv").write_bytes(corpus.damaged_film())
    ended = run("ask", tmp_path / "broken.mkv", "What?", "--fps", "8")
    assert ended.code == 0
    assert re.search(r"note: \d+ damaged packets of .*broken.mkv were skipped", ended.err)


def test_a_video_is_profiled(model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def profiled(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["llava-mini", "profile", *arguments, "--model", str(model)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return capfd.readouterr().out

    said = json.loads(profiled("video", "--frames", "3", "--json"))
    assert list(said) == ["frames", "decode_fps", "encode_fps", "total_fps", "peak_mb"]
    assert said["frames"] == 3
    assert all(value > 0 for value in said.values())
    made = json.loads(profiled("ways", "--frames", "3", "--words", "5", "--repeats", "1", "--json"))
    ways = {way["name"]: way for way in made["ways"]}
    assert list(ways) == ["together", "one by one", "released"]
    total = sum(part["gflops_per_frame"] for part in made["parts"])
    assert total == pytest.approx(ways["together"]["gflops_per_frame"], rel=0.01)
    assert all(way["max_difference"] < 1e-4 for way in ways.values())
    assert ways["released"]["gflops_per_frame"] > ways["together"]["gflops_per_frame"]


def test_the_version_is_said(run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["llava-mini", "--version"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capfd.readouterr().out)
