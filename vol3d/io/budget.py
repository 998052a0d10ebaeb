"""How many bytes of voxels may be loaded: a given limit, or the memory that is free now."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from vol3d.errors import ResourceError

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Budget:
    """A limit in bytes. given: whether somebody asked for it, or it is the free memory of this machine."""

    limit: int
    given: bool = False

    @classmethod
    def of(cls, max_bytes: int | None) -> Budget:
        """The budget asked for; None takes the free memory."""
        return cls(available_memory()) if max_bytes is None else cls(max_bytes, given=True)

    def require(self, name: str, needed: int) -> None:
        """Raise `ResourceError` where loading `name` takes more than the budget. needed: bytes."""
        if needed <= self.limit:
            return
        whose = "the memory budget is" if self.given else "this machine has free"
        remedy = "Raise the budget or crop the volume" if self.given else "Crop the volume or use a larger machine"
        raise ResourceError(
            f"{name} declares voxels that take {bytes_text(needed)} of memory; {whose} {bytes_text(self.limit)}. "
            f"{remedy}."
        )


def available_memory() -> int:
    """Bytes this process may still allocate: free memory of the machine, or of its control group if less."""
    page = os.sysconf("SC_PAGE_SIZE")
    free = page * os.sysconf("SC_PHYS_PAGES")
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit = _lines(_CGROUP / "memory.max")
    used = _lines(_CGROUP / "memory.current")
    if limit and used and limit[0].isdigit():
        cached = sum(
            int(line.split()[1])
            for line in _lines(_CGROUP / "memory.stat")
            if line.startswith(("inactive_file ", "active_file "))
        )
        free = min(free, int(limit[0]) - int(used[0]) + cached)
    return max(0, min(free, sys.maxsize))


def resident_bytes() -> int:
    """Bytes of memory that this process holds now; where the system does not tell, the most that it ever held."""
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def bytes_text(count: int) -> str:
    """A number of bytes for people: 512 bytes, 3.2 MB, 32 TB (decimal units)."""
    if count < 10_000:
        return f"{count} bytes"
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB", "EB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
