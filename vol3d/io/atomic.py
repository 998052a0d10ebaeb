"""Writing a file so that a crash leaves the old one, the new one, or none: never half of one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vol3d.errors import ResourceError

_BLOCK = 1 << 20


@contextmanager
def replace(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix; on success it is flushed to disk and renamed to `path`.

    The body creates and closes the temporary file. Where the body raises, the temporary file is removed and an
    existing `path` stays as it was. A symbolic link is followed. Raises `ResourceError` where the system refuses
    (disk full, no permission). Remains of killed writers of the same path are swept away.
    """
    target = Path(os.path.realpath(path))
    with contextlib.suppress(OSError):
        _sweep(target)
    temporary = target.parent / f"{_prefix(target)}{os.getpid()}-{secrets.token_hex(4)}.tmp{_suffix(target.name)}"
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what this user's files get; some writers would make theirs private
        temporary.unlink()
        yield temporary
        _flush(temporary)
        if target.exists():
            shutil.copymode(target, temporary)
        else:
            temporary.chmod(mode)
        temporary.replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise ResourceError(
            f"{path} cannot be written: {reason}. Free space or choose another folder; nothing was changed."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While the body runs no other writer that asks for this is in its own, of this folder; else it is waited for.

    Where the file system has no locks nothing is waited for.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # the writer will say what is wrong with the folder
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def reserve(path: Path, size: int) -> None:
    """Make the file at least `size` bytes long on disk, so that later writes within it cannot fail for space.

    Raises `OSError` (no space, file too large) where the system cannot give that much.
    """
    with path.open("r+b") as file:
        present = file.seek(0, os.SEEK_END)
        if size <= present:
            return
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
            else:
                return
        while present < size:
            present += file.write(bytes(min(_BLOCK, size - present)))


def _prefix(target: Path) -> str:
    key = hashlib.sha256(target.name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return f".vol3d-{key}-{host}-"


def _suffix(name: str) -> str:
    suffixes = Path(name).suffixes
    return "".join(suffixes[-2:] if suffixes and suffixes[-1].lower() == ".gz" else suffixes[-1:])


def _sweep(target: Path) -> None:
    prefix = _prefix(target)
    for entry in target.parent.iterdir():
        if not entry.name.startswith(prefix):
            continue
        process = entry.name.removeprefix(prefix).partition("-")[0]
        if process.isdigit() and not _alive(int(process)):
            entry.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some network file systems cannot sync a folder
        _flush(folder)
