"""The documents keep their word: snippets run, commands parse, files and switches exist, numbers are filled in."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from llava_mini import Assistant, LlavaMiniConfig
from llava_mini.checkpoints.embedded import ADAPTER
from llava_mini.cli import app
from llava_mini.evaluation.benchmarks import BENCHMARKS
from llava_mini.evaluation.suites import MADE
from llava_mini.training.recipes import RECIPES
from llava_mini.training.stages import Embedded, Files, Scenes, Stage

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "NOTICE")),
        *(ROOT / "docs").glob("*.md"),
        ADAPTER.with_name("MODEL_CARD.md"),
    ]
)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """Every whole `llava-mini …` command line in the bash blocks and between single backticks."""
    lines = [line.strip() for block in blocks(text, "bash") for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", prose)
    return [line for line in [*lines, *spans] if line.startswith("llava-mini ")]


def parse(line: str) -> tuple[str, dict[str, Any]]:
    """Parse a command line with the real commands, without running it: its verb and its parameters, if it has any."""
    _, *words = shlex.split(line, comments=True)
    command, verbs = typer.main.get_command(app), []
    while hasattr(command, "commands"):
        verb, *words = words
        assert verb in command.commands, f"there is no verb {verb!r}: {line}"
        command = command.commands[verb]
        verbs.append(verb)
    return " ".join(verbs), command.make_context(verbs[-1], words).params if words else {}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def embedded() -> Assistant:
    return Assistant.load()


def test_the_adapter_is_in_the_repository() -> None:
    assert ADAPTER.is_file(), "the adapter is missing; make it with 'llava-mini train embedded'"


@pytest.mark.parametrize("block", blocks(README, "python"), ids=lambda block: block.strip().splitlines()[0])
def test_every_python_snippet_of_the_readme_runs_as_it_stands(
    block: str, embedded: Assistant, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Assistant, "load", lambda: embedded)  # loaded once for all snippets
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.strip()


def test_the_readme_has_python_snippets_and_commands() -> None:
    assert len(blocks(README, "python")) >= 2
    assert {parse(line)[0] for line in commands(README)} >= {"ask", "chat", "evaluate", "train", "data fetch"}


def test_the_readme_is_shorter_than_150_lines() -> None:
    assert len(README.splitlines()) < 150


def test_every_file_in_the_map_of_the_readme_exists() -> None:
    places = [place for row in re.findall(r"^\| (`.*)$", map_of_the_code(), re.MULTILINE) for place in paths_in(row)]
    assert len(places) > 8
    assert [place for place in places if not (ROOT / place).exists()] == []


def map_of_the_code() -> str:
    return README.split("## Map of the code")[1].split("\n## ")[0]


def paths_in(text: str) -> list[str]:
    return re.findall(r"`([\w./-]+)`", text)


def test_every_folder_of_the_package_is_in_the_map() -> None:
    package = ROOT / "src" / "llava_mini"
    folders = {name_of(path) for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {place.rstrip("/") for place in paths_in(map_of_the_code())} >= folders


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_command_line_parses(document: Path) -> None:
    for line in commands(document.read_text(encoding="utf-8")):
        verb, values = parse(line)
        if verb == "train" and values and not values["list_"]:
            assert values["recipe"] in {*RECIPES, "NAME"}, line
        if verb == "evaluate" and values:
            made = {*MADE, "NAME"}
            published = {*(row.name for row in BENCHMARKS), "all", "all-tiny"}
            assert set(values["names"] or ()) <= made | published, line
        if verb == "ask" and values:
            assert all((ROOT / file).is_file() for file in values["arguments"][:-1]), line


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_leads_to_a_file(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", document.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_number_is_filled_in(document: Path) -> None:
    assert re.findall(r"TODO-NUMBER(?:\([\w-]+\))?", document.read_text(encoding="utf-8")) == []


def test_every_switch_of_the_comparison_is_a_field() -> None:
    text = (ROOT / "docs" / "paper_vs_code.md").read_text(encoding="utf-8")
    others = {
        "add_generation_prompt",
        "padding_side",
        "chat_template",
        "fps",
        "max_frames",
        "square",
    }
    kinds = (LlavaMiniConfig, Stage, Scenes, Files, Embedded)
    known = {*(name for kind in kinds for name in kind.__annotations__), *others}
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    switches = {name for row in rows for name in re.findall(r"`(\w+)`", row[-1])}
    assert len(switches) > 15
    assert switches - known == set()


def test_the_configurations_of_the_comparison_can_be_built() -> None:
    text = (ROOT / "docs" / "paper_vs_code.md").read_text(encoding="utf-8")
    (block,) = blocks(text, "python")
    exec(compile(block, "paper_vs_code.md", "exec"), {"LlavaMiniConfig": LlavaMiniConfig})
