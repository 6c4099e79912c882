"""Imports point only downwards: the layer table, enforced on the source, lazy imports included.

| row | may import |
|---|---|
| `__main__` | cli |
| cli | all below |
| training, evaluation, analysis, profiling, serving | rows below, never each other |
| assistant | rows below |
| data, checkpoints, engines, reply | rows below; not each other |
| auto | rows below |
| inputs, model | config, errors; not each other |
| config, devices, lines | drawing, errors, intervals |

`auto` registers the classes of inputs and model with transformers, so it imports both, and whoever builds or loads a
model imports it. The package's own `__init__` names everybody's home and is no layer.
"""

import ast
import importlib.util
from pathlib import Path

import pytest

import llava_mini

ROOT = Path(llava_mini.__file__).parent
ROWS = (
    {"__main__"},
    {"cli"},
    {"training", "evaluation", "analysis", "profiling", "serving"},
    {"assistant"},
    {"data", "checkpoints", "engines", "reply"},
    {"auto"},
    {"inputs", "model"},
    {"config", "devices", "folders", "lines"},
    {"drawing", "errors", "intervals"},
)
LEVEL = {part: level for level, row in enumerate(ROWS) for part in row}
SOURCES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part_of(path: Path) -> str:
    """The row's member a file belongs to: its first folder, or its own name."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """The full names of all modules that a file imports anywhere, also inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "llava_mini" else {module}
    return names


def own_parts(path: Path) -> set[str]:
    """The parts of this package that a file imports."""
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("llava_mini.")}


def test_every_part_has_a_row() -> None:
    assert {part_of(path) for path in SOURCES} <= set(LEVEL)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_only_downwards(path: Path) -> None:
    part = part_of(path)
    wrong = {other for other in own_parts(path) if other != part and LEVEL[other] <= LEVEL[part]}
    assert not wrong, f"{part} must not import {sorted(wrong)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_reaches_for_the_package_itself(path: Path) -> None:
    # `from llava_mini import Assistant` would go round the table through the package's lazy names.
    assert "llava_mini" not in imports_of(path)
    named = {name.split(".")[1] for name in imports_of(path) if name.startswith("llava_mini.")}
    assert named <= set(LEVEL)


def test_the_verbs_load_nothing_heavy_before_they_run() -> None:
    for path in (ROOT / "cli").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        modules = {node.module or "" for node in at_import if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in at_import if isinstance(node, ast.Import) for alias in node.names}
        heavy = {name for name in modules if name.split(".")[0] in ("torch", "transformers", "numpy", "PIL", "av")}
        own = {name for name in modules if name.startswith("llava_mini.")}
        assert not heavy, path
        assert own <= {name for name in own if name.split(".")[1] in ("cli", "errors")}, path


def test_pictures_are_prepared_without_torchvision() -> None:
    assert importlib.util.find_spec("torchvision") is None
    assert not any(name.split(".")[0] == "torchvision" for path in SOURCES for name in imports_of(path))


def test_nothing_unpickles() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not {"pickle", "dill", "joblib", "shelve"} & {name.split(".")[0] for name in imports_of(path)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                safe = [word for word in node.keywords if word.arg == "weights_only"]
                assert safe, f"{path}: torch.load without weights_only"
                assert ast.unparse(safe[0].value) == "True"
