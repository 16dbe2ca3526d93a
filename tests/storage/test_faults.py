from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from everclip.storage import faults

SCRIPT = """
import atexit
from everclip.storage.faults import fault_point
atexit.register(print, "cleaned up")
for number in range(1, 4):
    fault_point("here")
    print(number, flush=True)
"""


@pytest.fixture(autouse=True)
def _from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_reached", 0)
    monkeypatch.delenv("EVERCLIP_FAULT", raising=False)


@pytest.mark.parametrize(("number", "printed"), [("1", ""), ("3", "1\n2\n"), ("4", "1\n2\n3\ncleaned up\n")])
def test_the_process_ends_at_that_point_without_any_clean_up(
    monkeypatch: pytest.MonkeyPatch, number: str, printed: str
) -> None:
    monkeypatch.setenv("EVERCLIP_FAULT", number)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.stdout == printed
    assert done.returncode == (0 if number == "4" else faults.EXIT_CODE)


def test_a_full_disk_is_met_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERCLIP_FAULT", "2:disk-full")
    faults.fault_point("first")
    with pytest.raises(OSError, match="second") as error:
        faults.fault_point("second")
    assert error.value.errno == errno.ENOSPC
    faults.fault_point("third")


def test_unset_they_do_nothing() -> None:
    for _ in range(100):
        faults.fault_point("here")
    assert faults._reached == 0
