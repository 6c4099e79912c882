"""Pictures and word lists that arrive as ordinary packages: their licences, and how to fetch them."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llava_mini.errors import DataError

Kind = Literal["npm", "apt", "pip"]
Use = Literal["train", "test"]


@dataclass(frozen=True)
class Source:
    """Name one package that holds pictures or words."""

    name: str
    """Name in its registry."""
    kind: Kind
    """The client that downloads it."""
    version: str
    """Pinned version."""
    licence: str
    """Licence of its contents; packages with mixed licences are for tests only."""
    use: Use
    """"train": may be learned from. "test": looked at in evaluations, never trained on, never shipped."""

    @property
    def folder(self) -> str:
        """Return the plain folder name: no scope, no slash."""
        return self.name.removeprefix("@").replace("/", "-")


SOURCES = (
    Source("@lobehub/fluent-emoji-3d", "npm", "1.1.0", "MIT", "train"),
    Source("emojibase-data", "npm", "17.0.0", "MIT", "train"),
    Source("openclipart-png", "apt", "1:0.18+dfsg-19", "public domain", "train"),
    Source("@tensorflow-models/mobilenet", "npm", "2.1.1", "Apache-2.0", "train"),
    Source("@pmndrs/assets", "npm", "1.7.0", "CC0-1.0", "train"),
    Source("fonts-noto-color-emoji", "apt", "2.042-0+deb12u1", "Apache-2.0; the font OFL-1.1", "train"),
    Source("tuxpaint-stamps-default", "apt", "2022.06.04-1", "GPL-2 and others", "test"),
    Source("gcompris-qt-data", "apt", "3.1-2", "AGPL-3, CC-BY-SA and others", "test"),
    Source("foolbox", "pip", "3.3.4", "MIT; its pictures are ImageNet's", "test"),
    Source("scikit-image", "pip", "0.26.0", "BSD-3-Clause; its pictures vary", "test"),
)
"""Every package that is read, in one table."""
_STAMP = "fetched-version"
"""File in a source's folder that holds the version."""


def fetch(folder: Path, use: Use) -> list[Path]:
    """Download every source of one use into its own folder; leave alone what is already there in its pinned version.

    Args:
        folder: parent of the source folders.
        use: "train" or "test".

    Returns:
        The folders, in the order of the table.

    Raises:
        DataError: when a client is missing or a package cannot be downloaded or opened.
    """
    return [fetch_source(source, folder) for source in SOURCES if source.use == use]


def version_of(source: Source, folder: Path) -> str:
    """Return the version that lies in a source's folder.

    A folder without a stamp was fetched before there were stamps, or put there by hand: it counts as the pinned one.
    """
    stamp = folder / source.folder / _STAMP
    return stamp.read_text(encoding="utf-8").strip() if stamp.is_file() else source.version


def fetch_source(source: Source, folder: Path) -> Path:
    """Download and unpack one source, unless its folder holds the pinned version.

    A broken download leaves no folder behind, and another version where it was. A folder without a stamp is stamped.
    """
    folder = folder.absolute()  # the clients run in a folder of their own
    target = folder / source.folder
    if target.is_dir() and version_of(source, folder) == source.version:
        _stamp(source, target)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        downloads, contents = Path(scratch, "downloads"), Path(scratch, "contents")
        downloads.mkdir()
        contents.mkdir()
        _run(_download_command(source), source, downloads)
        archives = sorted(path for path in downloads.iterdir() if path.is_file())
        if len(archives) != 1:
            raise DataError(f"{source.kind} left {len(archives)} files for {source.name}; exactly one was expected")
        _unpack(archives[0], contents, source)
        _stamp(source, contents)
        if target.is_dir():
            target.rename(Path(scratch, "before"))
        contents.rename(target)
    return target


def _stamp(source: Source, contents: Path) -> None:
    """Write the version beside what was unpacked, if it is not there yet."""
    stamp = contents / _STAMP
    if not stamp.is_file() and os.access(contents, os.W_OK):  # a folder for reading only is good as it is
        stamp.write_text(f"{source.version}\n", encoding="utf-8")


def _download_command(source: Source) -> list[str]:
    """Build the command that writes one archive into the current folder."""
    if source.kind == "npm":
        return ["npm", "pack", "--silent", f"{source.name}@{source.version}"]
    if source.kind == "apt":
        return ["apt-get", "download", f"{source.name}={source.version}"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    return [*pip, f"{source.name}=={source.version}"]


def _unpack(archive: Path, contents: Path, source: Source) -> None:
    """Open a .tgz, .deb or .whl."""
    try:
        if source.kind == "npm":
            with tarfile.open(archive) as packed:
                packed.extractall(contents, filter="data")
        elif source.kind == "apt":
            _run(["dpkg", "-x", str(archive), str(contents)], source, contents)
        else:
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(contents)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(f"the archive {archive.name} of {source.name} cannot be opened: {error}") from error


def _run(command: Sequence[str], source: Source, folder: Path) -> None:
    """Run a client in a folder and turn its failure into one clear line."""
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]} is not installed, and {source.name} comes with it; install {command[0]} first")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        reason = next((line for line in lines if "err" in line.lower() or line.startswith("E:")), lines[-1])
        raise DataError(f"{command[0]} could not get {source.name} {source.version}: {reason.strip()}")
