"""Replacing files: complete or not at all, and nothing left behind."""

import errno
import os

import pytest

from vol3d.errors import ResourceError
from vol3d.io import atomic


def test_the_file_appears_at_the_end_only(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_text("old")
    path.chmod(0o640)
    with atomic.replace(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
        assert temporary.name.startswith(".")
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_failing_body_changes_nothing(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic.replace(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_system_errors_are_explained(tmp_path):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(ResourceError, match=r"a\.h5 cannot be written: No space left.*nothing was changed"),
        atomic.replace(tmp_path / "a.h5"),
    ):
        full()
    with pytest.raises(ResourceError, match="No such file"), atomic.replace(tmp_path / "gone" / "a.h5") as temporary:
        temporary.write_text("x")


def test_links_are_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real.txt").write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "far" / "real.txt")
    with atomic.replace(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "far" / "real.txt").read_text() == "new"


def test_remains_of_killed_writers_are_swept(tmp_path):
    path = tmp_path / "a.nii"
    with atomic.replace(path) as temporary:
        prefix = temporary.name.split(str(os.getpid()))[0]
        temporary.write_text("x")
    dead = tmp_path / f"{prefix}4194999-aaaa.tmp.nii"  # above the largest process number
    alive, init = tmp_path / f"{prefix}{os.getpid()}-bbbb.tmp.nii", tmp_path / f"{prefix}1-cccc.tmp.nii"
    huge = tmp_path / f"{prefix}{10**30}-dddd.tmp.nii"
    other = tmp_path / ".vol3d-something-else"
    for rest in (dead, alive, init, huge, other):
        rest.touch()
    with atomic.replace(path) as temporary:
        temporary.write_text("y")
    assert set(tmp_path.iterdir()) == {path, alive, init, huge, other}


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, None])
def test_space_is_reserved_with_or_without_the_system_call(tmp_path, monkeypatch, code):
    path = tmp_path / "a"
    path.write_bytes(b"abc")

    def unsupported(*_args):
        raise OSError(code, "not here")

    if code is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", unsupported)
    atomic.reserve(path, 3_000_000)
    assert path.stat().st_size == 3_000_000
    assert path.read_bytes().startswith(b"abc\0")
    atomic.reserve(path, 10)
    assert path.stat().st_size == 3_000_000


def test_space_that_is_not_there(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.touch()

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        atomic.reserve(path, 100)


def test_a_new_file_gets_the_usual_permissions(tmp_path):
    usual = tmp_path / "usual"
    usual.touch()
    with atomic.replace(tmp_path / "new.bin") as temporary:
        temporary.write_bytes(b"x")
        temporary.chmod(0o600)
    assert (tmp_path / "new.bin").stat().st_mode == usual.stat().st_mode
