"""Files and folders that are seen whole or not at all, whatever happens while they are written."""

import contextlib
import glob
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

FORGOTTEN_SECONDS = 24 * 3600.0  # no file takes so long to write


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path` to write to; on leaving, that file is synced and becomes `path`.

    After an error the old file is still there and the temporary one is gone; after a crash or a power
    failure `path` is the old file or the whole new one. Each writer has a name of its own: of several
    processes that write the same file the last one's stays.
    """
    temporary = _own_name(path)
    temporary.touch()
    mode = temporary.stat().st_mode  # as new files have it here; safetensors would let the owner alone read
    temporary.unlink()
    try:
        yield temporary
        temporary.chmod(mode)
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file that is seen whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path`, a new name; on leaving, it is synced and becomes `path`.

    After an error it is gone. What a killed process left is removed by the next that creates the same folder.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for part in (*temporary.rglob("*"), temporary):
            _sync(part)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(path.parent)


def _own_name(path: Path) -> Path:
    """A new name beside `path`; what killed writers of `path` left there a day ago is removed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*tmp"):
        with contextlib.suppress(FileNotFoundError):  # another writer was faster
            if time.time() - left.stat().st_mtime > FORGOTTEN_SECONDS:
                left.unlink()
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _sync(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
