"""`everclip serve` as a process: half-open connections, signals, kills, and requests that cost much."""

from __future__ import annotations

import io
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from everclip.cli import main
from everclip.cli.serve import _address
from everclip.learner import Learner
from everclip.serve import Limits

from .conftest import Start, lesson


def connected(address: str, sent: bytes) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(sent.replace(b"HOST", f"{host}:{port}".encode()))
    return connection


HALF_OPEN = {
    "nothing": b"",
    "half a head": b"GET /health HTTP/1.1\r\nHo",
    "half a body": b"POST /predict HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1000\r\n\r\nabc",
    "half a lesson": b"POST /tasks HTTP/1.1\r\nHost: HOST\r\nContent-Length: 9000\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\nContent-Disposition: form-data; name=files; "
    b'filename="a/b.png"\r\n\r\nabc',
    "a second head": b"GET /health HTTP/1.1\r\nHost: HOST\r\n\r\nGET /hea",
    "half a chunk": b"POST /predict HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
}


def ends(connection: socket.socket) -> float:
    """Seconds until the other side closes the connection."""
    begun = time.monotonic()
    with connection:
        while connection.recv(1 << 16):
            pass
    return time.monotonic() - begun


def test_what_stalls_is_dropped_and_leaves_nothing(start: Start, model: Path) -> None:
    address, process = start(str(model), "--set", "stalled=1")
    with ThreadPoolExecutor(8) as pool:
        for seconds in pool.map(ends, [connected(address, sent) for sent in HALF_OPEN.values()]):
            assert seconds < 20
        # A byte now and then is no news either.
        drip = connected(address, HALF_OPEN["half a body"])
        dropped = pool.submit(ends, drip.dup())
        for _ in range(40):
            if dropped.done():
                break
            try:
                drip.sendall(b"x")
            except OSError:
                break
            time.sleep(0.25)
        assert dropped.result(30) < 20
        drip.close()
    stalled = connected(address, HALF_OPEN["half a lesson"])
    assert b"408" in stalled.recv(100)
    stalled.close()
    deadline = time.monotonic() + 10
    while list((model / ".lessons").glob("*-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list((model / ".lessons").glob("*-*"))
    # A slow upload that does bring something goes on; of what it brings, three thousand zeros make no image.
    head = b"POST /predict HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\nContent-Length: 3000\r\n\r\n"
    slow = connected(address, head)
    for _ in range(3):
        time.sleep(0.6)
        slow.sendall(bytes(1000))
    assert slow.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
    slow.close()
    assert httpx.get(f"{address}/health").status_code == 200
    assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_it_in_time_whatever_is_half_open(
    start: Start, model: Path, folders: list[Path], number: signal.Signals
) -> None:
    address, process = start(str(model))
    opened = [connected(address, sent) for sent in HALF_OPEN.values()]
    files = [("files", (f"red/{n}.png", lesson(folders[0])[0][1][1])) for n in range(300)]
    taught = httpx.post(f"{address}/tasks", data={"name": "x"}, files=files, timeout=60)
    assert taught.status_code == 202
    begun = time.monotonic()
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert time.monotonic() - begun < 10
    for each in opened:
        each.close()
    assert Learner.load(model).tasks


@pytest.mark.slow
def test_an_accepted_lesson_survives_a_kill(start: Start, model: Path, folders: list[Path], tmp_path: Path) -> None:
    address, process = start(str(model))
    jobs = [
        httpx.post(f"{address}/tasks", data={"name": f"task {n}"}, files=lesson(folders[0]), timeout=60).json()["job"]
        for n in range(3)
    ]
    half = connected(address, HALF_OPEN["half a lesson"])
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    half.close()
    address, process = start(str(model))
    deadline = time.monotonic() + 120
    states = {}
    while time.monotonic() < deadline and set(states.values()) != {"done"}:
        states = {job: httpx.get(f"{address}/jobs/{job}", timeout=30).json()["state"] for job in jobs}
        time.sleep(0.1)
    assert states == dict.fromkeys(jobs, "done")
    assert [task.name for task in Learner.load(model).tasks][-3:] == ["task 0", "task 1", "task 2"]
    assert not list((model / ".lessons").glob("*-*"))


def rss(process: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell the memory of a process")
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_large_images_leave_it_awake_and_its_memory_bounded(start: Start, model: Path, mode: str) -> None:
    """48 at once, of 49 megapixels each."""
    buffer = io.BytesIO()
    Image.new(mode, (7000, 7000), "red").save(buffer, "PNG")
    address, process = start(str(model), "--set", "seconds=20")
    before, most, done = rss(process.pid), 0, threading.Event()
    waited: list[float] = []

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            begun = time.monotonic()
            assert watcher.get(f"{address}/health").status_code == 200
            waited.append(time.monotonic() - begun)
            most = max(most, rss(process.pid))
            time.sleep(0.05)

    def ask(_: int) -> int:
        return client.post(f"{address}/predict", content=buffer.getvalue()).status_code

    every = httpx.Limits(max_connections=None)
    with (
        httpx.Client(timeout=60) as watcher,
        httpx.Client(timeout=120, limits=every) as client,
        ThreadPoolExecutor(49) as pool,
    ):
        watching = pool.submit(watch)
        statuses = list(pool.map(ask, range(48)))
        done.set()
        watching.result()
    assert set(statuses) <= {200, 504}, "answered, or not in time"
    assert 200 in statuses
    side = Learner.load(model).side
    assert most - before < Limits().memory(side)
    # The machine may be busy with something else at some moment; behind the images it would wait all the time.
    assert sorted(waited)[int(0.95 * len(waited))] < 1


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--host", "0.0.0.0"], "give a --token, or --open"),
        (["--host", "::"], "give a --token, or --open"),
        (["--host", "192.0.2.1"], "give a --token, or --open"),
        (["--host", "no such name"], "can't listen on 'no such name'"),
        (["--host", ""], "can't listen on ''"),
        (["--allow-host", "http://a"], "no name of a host"),
        (["--set", "stalled=0"], "stalled=0"),
    ],
)
def test_what_is_not_allowed_is_one_sentence(
    model: Path, args: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVERCLIP_TOKEN", raising=False)
    with pytest.raises(SystemExit) as end:
        main(["serve", str(model), *args])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_what_is_this_machine_alone() -> None:
    assert _address("127.0.0.1") == ("127.0.0.1", False)
    assert _address("127.1") == ("127.0.0.1", False)
    assert _address("localhost")[1] is False
    assert _address("0.0.0.0") == ("0.0.0.0", True)
    assert _address("0") == ("0.0.0.0", True)
    assert _address("::1")[1] is False


@pytest.mark.parametrize("more", [["--open"], pytest.param(["--token", "secret"], marks=pytest.mark.slow)])
def test_it_listens_beyond_the_machine_when_told(start: Start, model: Path, more: list[str]) -> None:
    address, _ = start(str(model), "--host", "0.0.0.0", "--allow-host", "photos.example.org", *more)
    port = address.rpartition(":")[2]
    here = f"http://127.0.0.1:{port}"
    for host, status in (("127.0.0.1", 200), ("photos.example.org", 200), ("evil.example", 421), ("0.0.0.0", 421)):
        assert httpx.get(f"{here}/health", headers={"host": host}, timeout=30).status_code == status
    evil = {"origin": "http://evil.example"}
    assert httpx.post(f"{here}/predict", content=b"x", headers=evil, timeout=30).status_code == 403
    assert httpx.get(f"{here}/tasks", timeout=30).status_code == (200 if more == ["--open"] else 401)


def test_the_page_on_the_service_tells_every_limit_and_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
    for name, field in Limits.model_fields.items():
        assert f"| `{name}` | {field.default} |" in page
