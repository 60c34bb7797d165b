"""Checks of a SQLite file: who may write and read it, what it lies on, and its journal."""

import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Final

from .findings import Finding, Findings, error, ok, unknown, warning

# SQLite's locks do not hold there, or its WAL cannot be shared: two hosts would both be right (R1).
_NETWORK: Final = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs", "beegfs", "gpfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.ceph", "fuse.rclone", "fuse.gcsfuse", "fuse.blobfuse2"),
    )
)
_GONE_AT_RESTART: Final = frozenset(("tmpfs", "ramfs", "overlay"))
_ROOM: Final = 100_000_000
_MOUNTS: Final = Path("/proc/self/mountinfo")
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def check_file(path: Path, *, is_sealed: bool) -> Findings:
    """All checks of the file at `path`, which is not created here: it would belong to who runs the doctor."""
    path = path.resolve()
    yield _access(path)
    yield check_place(path, _MOUNTS.read_text(encoding="utf-8") if _MOUNTS.exists() else None)
    free = shutil.disk_usage(path.parent).free
    if free < _ROOM:
        yield warning("store.disk", f"{free // 1_000_000} MB are free", "make room: a full disk refuses writes")
    if path.exists():
        yield _journal(path)
        if not is_sealed and path.stat().st_mode & _OTHERS:
            said = f"others may read the session tokens in it (mode {stat.S_IMODE(path.stat().st_mode):o})"
            yield warning("store.mode", said, "chmod 600 it, or set PHR_REFRESH_SEAL_KEYS")


def _access(path: Path) -> Finding:
    for place, what in ((path.parent, "its directory"), (path, "it")):
        if place.exists() and not os.access(place, os.R_OK | os.W_OK):
            said = f"{what} cannot be read and written by this user"
            return error("store.file", said, "check its owner and mode: SQLite also makes files beside it")
    if not path.parent.is_dir():
        return error("store.file", "its directory does not exist", "create it")
    return ok("store.file", f"{path} {'can be written' if path.exists() else 'will be made at the first login'}")


def check_place(path: Path, mounts: str | None) -> Finding:
    """What kind of file system `path` lies on, by the lines of /proc/self/mountinfo; None where there is no such."""
    kind = None if mounts is None else _kind_of(path, mounts)
    if kind is None:
        return unknown("store.filesystem", "its kind cannot be told here", "see that it is a local disk")
    if kind in _NETWORK:
        said = f"it lies on {kind}: SQLite's locks do not hold over a network (R1)"
        return error("store.filesystem", said, "put it on a local disk, or share Redis between hosts")
    if kind in _GONE_AT_RESTART:
        said = f"it lies on {kind}: a restart forgets all windows (R1)"
        return warning("store.filesystem", said, "put it on a disk or a volume that stays")
    return ok("store.filesystem", kind)


def _kind_of(path: Path, mounts: str) -> str | None:
    found: tuple[int, str] | None = None
    for line in mounts.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split()
        if not dash or len(fields) < 5:
            continue
        # Spaces and such are octal escapes.
        place = Path(fields[4].encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "replace"))
        # The last of those mounted at one place hides the others.
        if path.is_relative_to(place) and (found is None or len(place.parts) >= found[0]):
            found = len(place.parts), after.split()[0]
    return found[1] if found else None


def _journal(path: Path) -> Finding:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=2.0)) as connection:
            mode = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    except sqlite3.Error as failure:
        return error(
            "store.journal",
            f"it cannot be opened ({failure.sqlite_errorname})",
            "move it away, or restore it from a backup",
        )
    if mode != "wal":
        return warning("store.journal", f"journal mode {mode}, not wal", "let one process of the service open it")
    return ok("store.journal", "wal")
