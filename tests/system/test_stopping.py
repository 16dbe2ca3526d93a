"""A signal ends a process in time, whatever it is in the middle of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a signal ends such a process at once")

READY = """
import threading
threading.Timer(0.3, lambda: print("ready", flush=True)).start()
"""

# Ways of not listening to a signal.
DEAF = {
    "in a computation that does not come back": """
import ctypes
mutex = ctypes.create_string_buffer(256)
lock = ctypes.CDLL(None).pthread_mutex_lock
lock(mutex), lock(mutex)
""",
    "beside a thread that does not end": """
import time
threading.Thread(target=threading.Event().wait).start()
time.sleep(60)
""",
    "in a pool of threads": """
import concurrent.futures
with concurrent.futures.ThreadPoolExecutor(1) as pool:
    pool.submit(threading.Event().wait).result()
""",
    "swallowing every exception": """
import time
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
""",
}


def ended_by(number: int, *command: str, cwd: Path | None = None) -> tuple[int, float, str]:
    """Start a program, send it a signal once it is ready; its exit status, the seconds it took, what it said."""
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
    ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            start = time.monotonic()
            running.send_signal(number)
            _, said = running.communicate(timeout=60)
            return running.returncode, time.monotonic() - start, said
        finally:
            running.kill()


@pytest.mark.parametrize("deaf", DEAF.values(), ids=DEAF)
def test_it_ends_after_the_grace_that_was_given(deaf: str):
    begin = """
import signal
from everclip.system.stopping import STOPS, end_in_time
def stop(number, frame):
    raise KeyboardInterrupt
for number in STOPS:
    signal.signal(number, stop)
end_in_time(stop, 0.2)
"""
    status, _, said = ended_by(signal.SIGTERM, "-c", begin + READY + deaf)
    assert status == 143
    assert said.splitlines()[-1].startswith("everclip: stopped by SIGTERM in the middle of work;")


def test_signals_of_somebody_else_are_left_to_them():
    code = """
import signal, time
from everclip.system.stopping import end_in_time
end_in_time(lambda number, frame: None, 0.1)
signal.signal(signal.SIGTERM, lambda number, frame: None)
print("ready", flush=True)
time.sleep(1)
raise SystemExit(7)
"""
    status, _, _ = ended_by(signal.SIGTERM, "-c", code)
    assert status == 7


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("deaf", DEAF.values(), ids=DEAF)
def test_every_command_ends_within_five_seconds(deaf: str, number: int, tmp_path: Path):
    (tmp_path / "deaf.py").write_text(READY + deaf)
    status, seconds, said = ended_by(number, "-m", "everclip", "--plugin", "deaf:NAME", "methods", cwd=tmp_path)
    assert status == 128 + number
    assert seconds < 5
    assert said.splitlines()[-1].startswith(f"everclip: stopped by {signal.Signals(number).name}")


@pytest.mark.slow
def test_a_command_that_decodes_ends_at_once(tmp_path: Path):
    """Images that wait in the queue are not decoded any more."""
    code = """
import sys, time
from everclip.data import GivenImages
def decode(self, index):
    if index == 0:
        print("ready", flush=True)
    time.sleep(0.5)
    raise NotImplementedError
GivenImages.decode = decode
from everclip.data.images import views
import everclip.cli, typer
@everclip.cli.app.command("look")
def look() -> None:
    list(views(GivenImages(["x.jpg"] * 1000), None))
sys.argv = ["everclip", "look"]
everclip.cli.main()
"""
    status, seconds, said = ended_by(signal.SIGTERM, "-c", code, cwd=tmp_path)
    assert status == 143
    assert seconds < 3
    assert "stopped by SIGTERM; what was done is kept" in said
