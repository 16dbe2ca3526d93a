"""The benchmark of the service under load, in a short form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LOAD = Path(__file__).parents[2] / "benchmarks/load.py"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell the memory of a process")
def test_no_answer_is_wrong_and_none_is_5xx_while_it_learns_and_forgets(tiny_clip: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(LOAD), "--requests", "800", "--backbone", str(tiny_clip)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=os.environ | {"EVERCLIP_CACHE": str(tmp_path)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.rpartition("}")[0] + "}")
    assert found["requests"] >= 800
    assert found["statuses"]["202"] == 3
    assert {"200", "400", "403", "404", "413", "421", "422"} <= set(found["statuses"])
    assert max(map(int, found["statuses"])) < 500
