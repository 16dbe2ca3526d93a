"""The command `serve` as a process of its own: under load, stopped, and its page in a browser."""

from __future__ import annotations

import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from everclip.cli import main
from everclip.learner import Learner

from .conftest import Start, photos
from .test_app import as_json

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_under_load_no_request_fails_and_answers_are_the_librarys(
    start: Start, model: Path, folders: list[Path]
) -> None:
    images = [path for folder in folders for path in photos(folder)]
    expected = Learner.load(model).predict(images)
    address, _ = start(str(model))

    def ask(turn: int) -> tuple[int, int, dict]:
        which = turn % len(images)
        response = client.post(f"{address}/predict", content=images[which].read_bytes())
        return which, response.status_code, response.json()

    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(200)))
    for which, status, answer in answers:
        assert status == 200
        assert answer == {"name": "image", **as_json(expected[which])}


def test_it_begins_with_nothing_and_a_signal_ends_it(start: Start, tmp_path: Path, tiny_clip: Path) -> None:
    address, process = start(str(tmp_path / "new"))
    assert httpx.get(f"{address}/tasks", timeout=60).json()["tasks"] == []
    empty = httpx.post(f"{address}/predict", content=b"x", timeout=60)
    assert "nothing is learned yet" in empty.json()["error"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert Learner.load(tmp_path / "new").tasks == []


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--set", "images=0"], "images=0 is not valid"),
        (["--set", "image=3"], "'image' is no setting of the service"),
        (["--token", " "], "the token is empty"),
        (["--host", "192.0.2.1", "--open"], "can't listen on 192.0.2.1"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    model: Path, args: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", str(model), *args])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_the_page_asks_teaches_and_forgets(start: Start, model: Path, folders: list[Path], tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api")
    lesson = tmp_path / "shades"
    shutil.copytree(folders[0], lesson / "shades")  # doubled and divided, as archives unpack; and with a film
    (lesson / "shades/train/red/film.mov").write_bytes(b"film")
    address, _ = start(str(model), "--token", "secret")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        wrong = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        page.fill("#token", "secret")
        page.press("#token", "Enter")
        api.expect(page.locator("#tasks tr")).to_have_count(len(folders))

        shown = [photos(folders[0])[0], tmp_path / "broken.png"]
        shown[1].write_bytes(b"no image")
        page.fill("#labels", "a house; tench, Tinca tinca")
        page.set_input_files("#photos", shown)
        answers = page.locator(".answer")
        api.expect(answers).to_have_count(2)
        api.expect(answers.nth(0).locator("strong")).not_to_be_empty()
        api.expect(answers.nth(0).locator(".bar")).not_to_have_count(0)
        api.expect(answers.nth(1).locator(".error")).to_contain_text("not an image of a known format")

        page.set_input_files("#folder", lesson)
        api.expect(page.locator("#job")).to_contain_text("learned", timeout=30_000)
        api.expect(page.locator("#job")).to_contain_text("1 file left out: 1 .mov")
        api.expect(page.locator("#tasks tr")).to_have_count(len(folders) + 1)
        api.expect(page.locator("#tasks tr").last).to_contain_text("shades")
        api.expect(page.locator("#tasks tr").last).to_contain_text(str(len(photos(folders[0], "train"))))
        api.expect(page.locator("#tasks tr").last).to_contain_text("blue, green, red")

        page.on("dialog", lambda dialog: dialog.accept())
        page.locator("#tasks tr").last.get_by_role("button").click()
        api.expect(page.locator("#tasks tr")).to_have_count(len(folders))
        browser.close()
    assert wrong == []
