"""One writer at a time, whatever the file system knows of locks."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from everclip.storage import lock
from everclip.storage.lock import OWNER, Lock, TakenError

NO_LOCKS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL]

HOLDER = """
import os, signal, sys
from pathlib import Path
from everclip.storage import lock
if sys.argv[2] == "without":
    lock.fcntl = lock.msvcrt = None
held = lock.Lock(Path(sys.argv[1]))
held.acquire()
print("held", flush=True)
signal.pause()
"""


def no_locks(monkeypatch: pytest.MonkeyPatch, code: int | None) -> None:
    """A file system whose locks fail with this error, or a Python that knows none."""
    if code is None:
        monkeypatch.setattr(lock, "fcntl", None)
        monkeypatch.setattr(lock, "msvcrt", None)
        return
    fcntl = pytest.importorskip("fcntl", reason="Windows locks by other means")

    def flock(file: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


def takes(folder: Path) -> str | None:
    """None where the lock could be had, else who has it."""
    mine = Lock(folder)
    try:
        mine.acquire()
    except TakenError as owner:
        return str(owner)
    mine.release()
    return None


@pytest.mark.parametrize("code", [*NO_LOCKS, None, 0])
def test_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None) -> None:
    if code != 0:  # with the kernel's lock it is the same
        no_locks(monkeypatch, code)
    first = Lock(tmp_path)
    first.acquire()
    assert f"process {os.getpid()} on " in str(takes(tmp_path))
    assert f"process {os.getpid()} on " in str(takes(tmp_path)), "whoever asked took nothing away"
    first.release()
    first.release()
    assert takes(tmp_path) is None
    assert not (tmp_path / OWNER).exists()


@pytest.mark.skipif(not hasattr(signal, "pause"), reason="Windows has no kill that leaves no time to clean up")
@pytest.mark.parametrize("locks", ["with", "without"])
def test_the_dead_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str) -> None:
    if locks == "without":
        no_locks(monkeypatch, errno.ENOLCK)
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path), locks]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert f"process {holder.pid} on " in str(takes(tmp_path))
        holder.kill()
    assert (tmp_path / OWNER).exists() == (locks == "without")
    assert takes(tmp_path) is None


def left(folder: Path, **changes: object) -> None:
    """An owner's file, as this process writes it but for these fields."""
    with pytest.MonkeyPatch.context() as patch:
        no_locks(patch, None)
        held = Lock(folder)
        held.acquire()
        content = json.loads((folder / OWNER).read_bytes())
        held.release()
    (folder / OWNER).write_text(json.dumps(content | changes))


@pytest.mark.parametrize("owner", ["elsewhere", "half written"])
def test_who_cannot_be_seen_may_be_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str) -> None:
    """A process of another machine or container; one that is writing its name. The sentence says what to do."""
    no_locks(monkeypatch, errno.EOPNOTSUPP)
    left(tmp_path, place="far away", host="far")
    words = f"process {os.getpid()} on far (if that has ended, remove "
    if owner == "half written":
        (tmp_path / OWNER).write_text('{"process": 1')
        words = "another process (if that has ended, remove "
    assert str(takes(tmp_path)) == f"{words}{tmp_path / OWNER})"
    (tmp_path / OWNER).unlink()
    assert takes(tmp_path) is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux says when a process began")
def test_a_number_that_is_another_process_by_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_locks(monkeypatch, errno.ENOSYS)
    left(tmp_path, begun="1")
    assert takes(tmp_path) is None


@pytest.mark.skipif(os.name == "nt", reason="there, the kernel's lock is always to be had")
def test_of_many_who_find_the_dead_one_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_locks(monkeypatch, errno.ENOLCK)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left(tmp_path, process=dead.pid, begun="1")
    start = threading.Barrier(8)
    locks = [Lock(tmp_path) for _ in range(8)]
    got: list[Lock] = []

    def take(mine: Lock) -> None:
        start.wait()
        try:
            mine.acquire()
        except TakenError:
            return
        got.append(mine)

    threads = [threading.Thread(target=take, args=(mine,)) for mine in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    got[0].release()
    assert takes(tmp_path) is None


def test_a_lock_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        takes(tmp_path / "nowhere")
