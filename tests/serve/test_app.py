"""The service over HTTP: the learner's answers, one sentence for what is wrong, and it lives on."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import pytest
from fastapi import FastAPI, Query
from fastapi.testclient import TestClient

from everclip.errors import EverclipError
from everclip.learner import Learner, Prediction
from everclip.serve import Service, create_app
from everclip.serve import service as module
from everclip.serve.accepted import Lesson, Lessons
from everclip.serve.reference import reference

from ..places import ReadOnly
from .conftest import lesson, photos

Serving = Callable[..., Service]


@pytest.fixture
def client(serving: Serving) -> TestClient:
    return TestClient(create_app(serving()), raise_server_exceptions=False)


def as_json(answer: Prediction) -> dict[str, object]:
    top = [{"label": label, "probability": pytest.approx(p, abs=1e-5), "task": task} for label, p, task in answer.top]
    return {
        "label": answer.label,
        "probability": pytest.approx(answer.probability, abs=1e-5),
        "task": answer.task,
        "route_confidence": pytest.approx(answer.route_confidence, abs=1e-5),
        "top": top,
        "error": None,
    }


def finished(client: TestClient, job: str) -> dict:
    for _ in range(600):
        state = client.get(f"/jobs/{job}").json()
        if state["state"] in ("done", "failed"):
            return state
        time.sleep(0.05)
    raise AssertionError(state)


# -- answers -----------------------------------------------------------------------------------------------------------


def test_one_image_is_answered_as_the_library_answers(client: TestClient, model: Path, folders: list[Path]) -> None:
    image = photos(folders[0])[0]
    response = client.post("/predict?labels=a house, two trees&top_k=3", content=image.read_bytes())
    expected = Learner.load(model).predict(image, ["a house", "two trees"], top_k=3)
    assert response.json() == {"name": "image", **as_json(expected)}


@pytest.mark.parametrize(
    "how", [{}, {"closed": True}, {"labels": ["a house"]}, {"labels": ["red", "a house"], "only": True}, {"top_k": 1}]
)
def test_a_batch_is_answered_as_the_library_answers(
    client: TestClient, model: Path, folders: list[Path], how: dict
) -> None:
    images = [path for folder in folders for path in photos(folder)]
    files = [("files", (path.name, path.read_bytes())) for path in images]
    data = {**how, "labels": ", ".join(how.get("labels", []))}
    answers = client.post("/predict/batch", files=files, data=data).json()["answers"]
    expected = Learner.load(model).predict(images, **how)
    assert answers == [{"name": p.name, **as_json(one)} for p, one in zip(images, expected, strict=True)]


def test_a_bad_file_is_told_and_the_others_are_answered(client: TestClient, folders: list[Path]) -> None:
    good = photos(folders[0])[0]
    files = [("files", ("a.png", good.read_bytes())), ("files", ("b.png", b"no image")), ("files", ("c.png", b""))]
    first, second, third = client.post("/predict/batch", files=files).json()["answers"]
    assert first["label"] is not None or first["task"] == "zero-shot"
    assert (second["name"], second["error"]) == ("b.png", "the content is not an image of a known format")
    assert third["error"] == "the file is empty"
    assert second["label"] is None
    assert second["top"] == []


def test_requests_share_forward_passes_whatever_they_ask(
    serving: Serving, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serving()
    calls, go = [], threading.Event()
    plain = Learner._features

    def features(learner: Learner, views: object) -> object:
        calls.append(len(views))
        assert go.wait(30)
        return plain(learner, views)

    monkeypatch.setattr(Learner, "_features", features)
    image = photos(folders[0])[0].read_bytes()
    with ThreadPoolExecutor(9) as pool:
        waiting = [
            pool.submit(service.predict, [("x", image)], labels, False, False, 5)
            for labels in [[], *[[f"label {n}"] for n in range(8)]]
        ]
        for _ in range(600):
            if service._batcher.waiting == 9:
                break
            time.sleep(0.05)
        go.set()
        answers = [each.result(30)[0] for each in waiting]
    assert sum(calls) == 9
    assert len(calls) <= 3, "nine requests in at most one forward pass for the early and one for the rest"
    names = [{candidate["label"] for candidate in answer["top"]} for answer in answers]
    assert sum("label 3" in each for each in names) <= 1


# -- learning ----------------------------------------------------------------------------------------------------------


def test_what_it_is_taught_it_knows_and_keeps(client: TestClient, model: Path, folders: list[Path]) -> None:
    names = [task["name"] for task in client.get("/tasks").json()["tasks"]]
    assert names == [folder.name for folder in folders]
    response = client.post("/tasks", data={"name": "again"}, files=lesson(folders[0]))
    assert response.status_code == 202
    state = finished(client, response.json()["job"])
    assert (state["state"], state["share"]) == ("done", 1.0)
    assert "learned" in state["message"]
    task = client.get("/tasks").json()["tasks"][-1]
    assert task["name"] == "again"
    assert task["images"] == len(photos(folders[0], "train"))
    assert [each.name for each in Learner.load(model).tasks] == [*names, "again"], "it is on disk already"
    gone = client.delete("/tasks/again").json()
    assert gone["exact"]
    assert [each.name for each in Learner.load(model).tasks] == names
    assert not list(Path(tempfile.gettempdir()).glob("everclip-lesson-*"))


def test_answers_go_on_during_a_lesson_and_are_those_from_before(
    serving: Serving, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serving()
    client = TestClient(create_app(service))
    image = photos(folders[0])[0].read_bytes()
    before = client.post("/predict", content=image).json()
    begun, go = threading.Event(), threading.Event()
    plain = Learner.save_in

    def save_in(learner: Learner, directory: object) -> None:
        begun.set()
        assert go.wait(30)
        plain(learner, directory)

    monkeypatch.setattr(Learner, "save_in", save_in)
    monkeypatch.setattr(module.Learner, "learn", _slowly(Learner.learn, begun, go))
    job = client.post("/tasks", data={"name": "again"}, files=lesson(folders[0])).json()["job"]
    assert begun.wait(30)
    assert client.get("/health").json()["learning"]
    assert client.post("/predict", content=image).json() == before
    busy = client.delete(f"/tasks/{folders[0].name}")
    assert busy.status_code == 503
    assert busy.json()["error"] == "a lesson is under way; try again in a moment."
    go.set()
    assert finished(client, job)["state"] == "done"
    assert not client.get("/health").json()["learning"]


def _slowly(learn: Callable, begun: threading.Event, go: threading.Event) -> Callable:
    def slowly(learner: Learner, *args: object) -> object:
        begun.set()
        assert go.wait(30)
        return learn(learner, *args)

    return slowly


def test_a_lesson_that_fails_says_why_and_changes_nothing(client: TestClient, model: Path) -> None:
    before = client.get("/tasks").json()
    files = [("files", ("red/a.png", b"no image"))]
    state = finished(client, client.post("/tasks", data={"name": "new"}, files=files).json()["job"])
    assert state["state"] == "failed"
    assert "none of the 1 " in state["message"]
    assert client.get("/tasks").json() == before
    assert client.get("/health").json()["status"] == "ok"


def test_nobody_else_changes_the_directory_meanwhile(serving: Serving, model: Path) -> None:
    serving()
    with pytest.raises(EverclipError, match="in use by process"):
        Service(model)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "more", "status", "sentence"),
    [
        ("POST", "/predict", {"content": b"text"}, 400, "the content is not an image of a known format"),
        ("POST", "/predict", {}, 422, "the request has no body"),
        ("POST", "/predict?top_k=0", {"content": b"text"}, 400, "top_k is 0"),
        ("POST", "/predict?top_k=many", {"content": b"text"}, 422, "top_k: "),
        ("POST", "/predict?only=true", {"content": b"text"}, 400, "give labels"),
        ("POST", "/predict/batch", {"data": {"labels": "a"}}, 422, "the request has no files"),
        ("POST", "/tasks", {"data": {"name": "x"}}, 400, "the form has no files"),
        ("POST", "/tasks", {"files": [("files", ("a/b.png", b"x"))]}, 400, "the form has no field name"),
        (
            "POST",
            "/tasks",
            {"data": {"name": "x"}, "files": [("files", ("b.png", b"x"))]},
            400,
            "the form has no class",
        ),
        ("POST", "/tasks", {"content": b"text"}, 400, "the form has no field name"),
        ("DELETE", "/tasks/none", {}, 400, "there is no task 'none'"),
        ("GET", "/jobs/none", {}, 404, "there is no job 'none'"),
        ("GET", "/nothing", {}, 404, "Not Found"),
        ("GET", "/predict", {}, 405, "Method Not Allowed"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    client: TestClient, method: str, path: str, more: dict, status: int, sentence: str
) -> None:
    response = client.request(method, path, **more)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert sentence in response.json()["error"]
    assert client.get("/health").json()["status"] == "ok"


def test_limits(serving: Serving, folders: list[Path]) -> None:
    service = serving(images=2, labels=2, pixels=100, request_bytes=50_000, lesson_bytes=90_000, lesson_images=3)
    client = TestClient(create_app(service))
    image = photos(folders[0])[0].read_bytes()
    small = [("files", ("a.png", image[:100]))]
    assert client.post("/predict/batch", files=3 * small).status_code == 413
    assert "3 labels" in client.post("/predict?labels=a,b,c", content=b"x").json()["error"]
    assert "more than 0.0001 megapixels" in client.post("/predict", content=image).json()["error"]
    for body in (bytes(60_000), iter([bytes(40_000), bytes(40_000)])):  # with its length told, and in chunks without
        response = client.post("/predict", content=body)
        assert response.status_code == 413
        assert "longer than the" in response.json()["error"]
    many = [("files", (f"a/{n}.png", b"x")) for n in range(4)]
    response = client.post("/tasks", data={"name": "x"}, files=many)
    assert response.status_code == 400
    assert client.get("/health").json()["status"] == "ok"


def test_too_slow_and_too_many(serving: Serving, folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    service = serving(seconds=0.2, waiting=1)
    client = TestClient(create_app(service), raise_server_exceptions=False)
    image = photos(folders[0])[0].read_bytes()
    go = threading.Event()
    with monkeypatch.context() as stuck:
        plain = Learner._features
        stuck.setattr(Learner, "_features", lambda *args: go.wait(30) and plain(*args))
        late = client.post("/predict", content=image)
        assert (late.status_code, late.json()["error"][:17]) == (504, "no answer in time")
        crowd = client.post("/predict", content=image)
        assert crowd.status_code == 503
        assert crowd.headers["retry-after"] == "1"
        go.set()
    for _ in range(100):
        if not service._batcher.waiting:
            break
        time.sleep(0.05)
    assert client.post("/predict", content=image).status_code == 200


def test_what_nobody_foresaw_is_logged_and_the_service_lives_on(
    client: TestClient, folders: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = photos(folders[0])[0].read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr(Learner, "_features", lambda *args: 1 / 0)
        response = client.post("/predict", content=image)
    assert response.status_code == 500
    assert response.json() == {"error": "the service failed on this request; its log says why."}
    assert "ZeroDivisionError" in caplog.text
    assert client.post("/predict", content=image).status_code == 200


def test_a_token(serving: Serving, folders: list[Path]) -> None:
    client = TestClient(create_app(serving(), token="secret"))
    image = photos(folders[0])[0].read_bytes()
    assert client.get("/").status_code == 200
    assert client.get("/health").status_code == 200
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Basic secret"}):
        refused = client.post("/predict", content=image, headers=headers)
        assert refused.status_code == 401
        assert "needs its token" in refused.json()["error"]
        assert client.get("/tasks", headers=headers).status_code == 401
    assert client.post("/predict", content=image, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_the_interface_is_described(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert {"/predict", "/predict/batch", "/tasks", "/tasks/{name}", "/jobs/{job}", "/health"} == set(
        described["paths"]
    )
    form = described["paths"]["/tasks"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["required"]) == {"name", "files"}


def test_a_read_only_learner_answers_and_learns_nothing(
    model: Path, serving: Serving, folders: list[Path], read_only: ReadOnly
) -> None:
    read_only(model)
    service = serving()
    assert not service.learns
    client = TestClient(create_app(service))
    image = photos(folders[0])[0].read_bytes()
    assert client.post("/predict", content=image).status_code == 200
    for refused in (
        client.post("/tasks", data={"name": "x"}, files=lesson(folders[0])),
        client.delete(f"/tasks/{folders[0].name}"),
    ):
        assert refused.status_code == 400
        assert f"learner directory {model} is read-only" in refused.json()["error"]


@pytest.mark.parametrize("when", ["new", "add", "accept"])
def test_a_lesson_without_room_for_its_photos_is_one_sentence_and_leaves_none(
    client: TestClient, model: Path, folders: list[Path], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Lessons if when == "new" else Lesson, when, full)
    response = client.post("/tasks", data={"name": "x"}, files=lesson(folders[0]))
    assert response.status_code == 507
    assert response.json()["error"].startswith(f"{model} takes no photos ({os.strerror(errno.ENOSPC)})")
    assert not list((model / ".lessons").glob("*/*"))
    assert not client.get("/health").json()["learning"]


def test_what_cannot_be_saved_is_not_known_either(
    client: TestClient, model: Path, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = client.get("/tasks").json()

    def full(*args: object) -> None:
        raise EverclipError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(Learner, "save_in", full)
        state = finished(client, client.post("/tasks", data={"name": "x"}, files=lesson(folders[0])).json()["job"])
        assert (state["state"], state["message"]) == ("failed", "the disk is full")
        assert client.delete(f"/tasks/{folders[0].name}").status_code == 500
        assert client.get("/tasks").json() == before
    assert [task.name for task in Learner.load(model).tasks] == [task["name"] for task in before["tasks"]]


# -- names -------------------------------------------------------------------------------------------------------------

NAMES = [
    "indoor/outdoor",
    "/a/",
    "a/../b",
    "a//b",
    "...",
    "50%",
    "%2F",
    "%",
    "a?b#c;d",
    "a\\b",
    "é鳥",
    "a b+c",
    "[red]",
    "<b>",
]


def test_whatever_can_be_learned_can_be_forgotten(client: TestClient, folders: list[Path]) -> None:
    few = lesson(folders[0])[:2]
    for name in NAMES:
        response = client.post("/tasks", data={"name": name}, files=few)
        assert response.status_code == 202, response.text
        assert finished(client, response.json()["job"])["state"] == "done"
    assert [task["name"] for task in client.get("/tasks").json()["tasks"]][len(folders) :] == NAMES
    for name in NAMES:
        response = client.delete(f"/tasks/{quote(name, safe='')}")
        assert (response.status_code, response.json().get("task")) == (200, name)


@pytest.mark.parametrize("name", [".", "..", "a\nb", "\x1b[31mred", "\u202eabc", "a" * 201, "zero-shot"])
def test_what_could_not_be_forgotten_is_not_learned(client: TestClient, folders: list[Path], name: str) -> None:
    response = client.post("/tasks", data={"name": name}, files=lesson(folders[0])[:2])
    assert response.status_code == 400
    assert "another name" in response.json()["error"]
    assert response.json()["error"].isprintable()
    assert not client.get("/health").json()["learning"]


# -- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_needs_nothing_from_elsewhere_and_may_run_only_what_stands_in_it(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert not re.search(r"(src|href|action)\s*=\s*[\"']?(\w+:)?//|url\(|@import|https?://", response.text)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    for kind in ("script", "style"):
        for part in re.findall(rf"<{kind}>(.*?)</{kind}>", response.text, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
    assert "onclick=" not in response.text
    # What others wrote gets into the page as text alone.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", response.text)
    assert "style=" not in response.text


def test_the_reference_tells_every_address_and_every_parameter(client: TestClient) -> None:
    text, schema = client.get("/docs").text, client.get("/openapi.json").json()
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert f"<b>{method.upper()}</b> <code>{path}</code>" in text
            for parameter in operation.get("parameters", ()):
                assert f"<td>{parameter['name']}</td>" in text
    for name in ("labels", "only", "closed", "top_k", "files", "answers", "top[].probability"):
        assert f"{name}</td>" in text, name


def test_the_reference_is_text_wherever_it_comes_from() -> None:
    app = FastAPI(title="<script>x</script>")

    @app.get("/<b>")
    def odd(name: Annotated[str, Query(description="<img src=x onerror=x>")] = "<i>") -> None:
        """<u>"""

    page = reference(app.openapi())
    assert not re.search(r"<(script|b|img|i|u)>x|<img|<u>|<i>", page)


# -- labels and paths --------------------------------------------------------------------------------------------------

TENCH = "tench, Tinca tinca"


@pytest.mark.parametrize(
    "sent",
    [
        {"label": [TENCH, "b"]},
        {"labels": [TENCH, "b"]},
        {"labels": f'["{TENCH}", "b"]'},
        {"label": TENCH, "labels": "b"},
    ],
)
def test_labels_may_have_commas(client: TestClient, folders: list[Path], sent: dict) -> None:
    image = photos(folders[0])[0].read_bytes()
    one = client.post("/predict", params={**sent, "only": "true"}, content=image).json()
    (several,) = client.post(
        "/predict/batch", files=[("files", ("a.png", image))], data={**sent, "only": "true"}
    ).json()["answers"]
    for answer in (one, several):
        assert {candidate["label"] for candidate in answer["top"]} == {TENCH, "b"}


@pytest.mark.parametrize(("text", "sentence"), [('["a"', "begins like a JSON list"), ('["a", 2]', "one of texts")])
def test_labels_that_are_no_json(client: TestClient, text: str, sentence: str) -> None:
    answer = client.post("/predict", params={"labels": text}, content=b"x")
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]


def test_a_card_in_the_form_is_read(client: TestClient, folders: list[Path]) -> None:
    card = ("files", ("paint/dataset.json", b'{"class_names": {"red": "rosso"}}'))
    form = [("files", (f"paint/{path}", content)) for _, (path, content) in lesson(folders[0])]
    job = client.post("/tasks", data={"name": "colori", "folder": "paint"}, files=[card, *form]).json()["job"]
    assert finished(client, job)["state"] == "done"
    assert "rosso" in client.get("/tasks").json()["tasks"][-1]["classes"]
