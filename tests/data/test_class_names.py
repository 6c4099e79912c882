"""A plain name for each class of the tower, as its package writes them."""

from pathlib import Path

import pytest

from llava_mini.data.class_names import _FILE, load_class_names
from llava_mini.errors import DataError


def write(sources: Path, **written: str) -> None:
    path = sources / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (f"{number}: {written.get(f'n{number}', repr(f'thing{number}, other'))}," for number in range(1000))
    path.write_text("{" + "\n".join(rows) + "}")


def test_names_with_apostrophes_are_whole(tmp_path: Path) -> None:
    write(
        tmp_path,
        n607=r"'jack-o\'-lantern'",
        n738='"potter\'s wheel, wheel"',
        n499="'yellow lady\\'s slipper'",
        n999="'toilet tissue, toilet paper'",
    )
    names = load_class_names(tmp_path)
    assert len(names) == 1000
    assert names[607] == "jack-o-lantern"  # as the cut-out is called
    assert names[499] == "yellow lady's slipper"
    assert names[738] == "potter's wheel"
    assert names[999].startswith("toilet")


def test_a_file_that_is_missing_or_cut_off_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class names are missing .* fetch them with 'llava-mini data fetch'"):
        load_class_names(tmp_path)
    write(tmp_path)
    path = tmp_path / _FILE
    path.write_text(path.read_text()[:2000])
    with pytest.raises(DataError, match=r"lists \d+ classes; 1000 were expected"):
        load_class_names(tmp_path)
