"""Change a recipe from outside: `--set a.b=c` and YAML files; an unknown key is an error with a suggestion."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from llava_mini.config import LlavaMiniConfig
from llava_mini.data.layouts import SceneKind
from llava_mini.data.readers import DataFile
from llava_mini.errors import ConfigError
from llava_mini.training.stages import PARTS, Embedded, Files, Parts, Pretrained, Recipe, Scenes, Stage

_FIELDS = {key: kind for key, kind in LlavaMiniConfig.__annotations__.items() if "_config" not in key}
"""Of the model's configuration, without those of tower and language model, which are parts of their own."""
_OPEN = {"learning_rates": tuple(PARTS), "changes": tuple(_FIELDS), "scene_kinds": get_args(SceneKind)}
"""Tables that may grow, and the keys they may have."""
_OPTIONAL = ("stages", "learning_rates", "scene_kinds")
"""Tables whose entries may be left out, by null."""
_OWN_FOLDERS = ("model", "adapter", "start")

for _kind in (DataFile, Scenes, Files, Stage, Embedded, Pretrained, Parts, Recipe):
    setattr(_kind, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010 - a plain dataclass declares none


def override(recipe: Recipe, *, settings: Iterable[str] = (), files: Iterable[Path] = ()) -> Recipe:
    """Return a recipe with other values; files come first, then settings, each over the one before.

    A stage is named by its name: `stages.stage2.steps=100`. Null leaves a stage out, or freezes a part:
    `stages.grounding=null`, `stages.stage2.learning_rates.projector=null`.

    Raises:
        ConfigError: for a key that does not exist, or a value of another kind.
    """
    values = _as_table(recipe)
    for path in files:
        _merge(values, _read(path), str(path))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set is {setting!r}; it must be key=value, as stages.stage2.steps=100")
        change: Any = _parsed(text, setting)
        for name in reversed(key.strip().split(".")):
            change = {name: change}
        _merge(values, change, "--set")
    meant = {type(recipe.start).__name__, *(type(stage.data).__name__ for stage in recipe.stages)}
    changed = _as_recipe(values, meant)
    _check_changes(changed.start)
    names = [stage.name for stage in changed.stages]
    taken = next((name for name in names if name in _OWN_FOLDERS or names.count(name) > 1), None)
    if taken is not None:
        raise ConfigError(f"a stage is called {taken!r}, which is a folder of the run's own or another stage's")
    return changed


def _as_table(recipe: Recipe) -> dict[str, Any]:
    """Return nested tables; stages by name."""
    values = asdict(recipe)
    values["stages"] = {stage["name"]: stage for stage in values["stages"]}
    return values


def _merge(values: dict[str, Any], changes: Mapping[str, Any], where: str, path: str = "") -> None:
    for key, value in changes.items():
        full = f"{path}{key}"
        table = path.rstrip(".").rpartition(".")[2]
        known = _OPEN.get(table, tuple(values))
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            meant = f"; did you mean {path}{near[0]}?" if near else f"; there are {', '.join(known)}"
            raise ConfigError(f"{where}: no key is called {full!r}{meant}")
        if value is None and table in _OPTIONAL:
            values.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(values.get(key), dict):
            _merge(values[key], value, where, f"{full}.")
        elif isinstance(values.get(key), dict) and key not in _OPEN:
            raise ConfigError(
                f"{where}: {full} is a table; give one of its keys, as {full}.{next(iter(values[key]), 'NAME')}"
            )
        else:
            values[key] = value


def _as_recipe(values: dict[str, Any], meant: set[str]) -> Recipe:
    """Check the values; of the kinds that a place may hold, those of the recipe are meant."""
    try:
        return TypeAdapter(Recipe).validate_python({**values, "stages": list(values["stages"].values())})
    except ValidationError as error:
        kinds = {kind.__name__ for kind in (*get_args(Recipe.__annotations__["start"]), Scenes, Files)}
        first = next(one for one in error.errors() if not (kinds - meant) & set(map(str, one["loc"])))
        place = [part for part in first["loc"] if part not in kinds]
        if len(place) > 1 and place[0] == "stages" and isinstance(place[1], int):
            place[1] = list(values["stages"])[place[1]]
        name = ".".join(map(str, place))
        raise ConfigError(f"{name} is {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error


def _check_changes(start: Embedded | Pretrained | Parts) -> None:
    """Check each value that `changes` gives to the model's configuration; whether they fit together it says itself."""
    for key, value in getattr(start, "changes", {}).items():
        try:
            TypeAdapter(_FIELDS[key]).validate_python(value, strict=True)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ConfigError(f"start.changes.{key} is {value!r}: {reason[:1].lower()}{reason[1:]}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {(error.strerror or 'unknown error').lower()}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{path}{where} is no YAML: {reason}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no keys; it must be a YAML table, as 'seed: 1'")
    return found


def _parsed(text: str, setting: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set is {setting!r}; its value is no YAML") from error
