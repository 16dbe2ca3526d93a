"""Who may ask: a name that the service goes by, and no page but its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from everclip.errors import InputError
from everclip.serve import Service, create_app
from everclip.serve.guard import LOOPBACK, authority, host_name

from .conftest import lesson, photos

HERE = "http://127.0.0.1:8000"


@pytest.fixture
def client(serving: Callable[..., Service]) -> TestClient:
    """A service that goes by one name beside those of its own machine."""
    app = create_app(serving(), hosts={*LOOPBACK, "photos.example.org"})
    return TestClient(app, base_url=HERE, raise_server_exceptions=False)


def changes(client: TestClient, folders: list[Path], **headers: str) -> list[int]:
    """What each request that asks, teaches, forgets or reads is answered with."""
    image = photos(folders[0])[0].read_bytes()
    return [
        client.post("/tasks", data={"name": "x"}, files=lesson(folders[0])[:2], headers=headers).status_code,
        client.delete(f"/tasks/{folders[0].name}", headers=headers).status_code,
        client.post("/predict", content=image, headers=headers).status_code,
        client.post("/predict/batch", files=[("files", ("a.png", image))], headers=headers).status_code,
        client.get("/tasks", headers=headers).status_code,
        client.get("/health", headers=headers).status_code,
        client.get("/", headers=headers).status_code,
        client.options("/tasks", headers=headers).status_code,
    ]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "192.0.2.7:8000",
     "127.0.0.1@evil.example", "127.0.0.1:8000:1", "", "[::2]", "testserver", "a b", "photos.example.org.evil.example"],
)  # fmt: skip
def test_under_a_foreign_name_there_is_a_closed_door(client: TestClient, folders: list[Path], host: str) -> None:
    before = client.get("/tasks").json()
    assert set(changes(client, folders, host=host)) == {421}
    error = client.get("/health", headers={"host": host}).json()["error"]
    assert "--allow-host" in error
    assert client.get("/tasks").json() == before


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8000", "localhost:9000", "LOCALHOST", "localhost.", "[::1]:8000", "photos.example.org",
     "Photos.Example.org.:8443"],
)  # fmt: skip
def test_under_its_own_names_it_answers_programs(client: TestClient, host: str) -> None:
    assert client.get("/health", headers={"host": host}).status_code == 200


def test_the_address_that_a_connection_came_to_is_a_name_too(serving: Callable[..., Service]) -> None:
    """For --host 0.0.0.0: a browser is there by the address itself, to which no foreign name can point."""
    client = TestClient(create_app(serving(), hosts=LOOPBACK), base_url="http://192.0.2.5:8000")
    assert client.get("/health").status_code == 200
    assert client.get("/health", headers={"host": "192.0.2.6:8000"}).status_code == 421


@pytest.mark.parametrize(
    "origin",
    ["http://127.0.0.1:3000", "http://localhost:8000", "http://127.0.0.1", "null", "",
     "http://evil.example", "http://127.0.0.1:8000.evil.example", "http://evil.example:8000", "file://",
     "127.0.0.1:8000", "http://127.0.0.1:8000/", "ftp://127.0.0.1:8000", "http://photos.example.org:8000"],
)  # fmt: skip
def test_no_page_of_another_site_or_port_is_obeyed(client: TestClient, folders: list[Path], origin: str) -> None:
    before = client.get("/tasks").json()
    assert set(changes(client, folders, origin=origin)) == {403}
    assert client.get("/tasks").json() == before


def test_its_own_page_is_obeyed_and_so_is_who_sends_no_origin(client: TestClient, folders: list[Path]) -> None:
    image = photos(folders[0])[0].read_bytes()
    for headers in ({}, {"origin": HERE}, {"origin": HERE, "sec-fetch-site": "same-origin"}):
        assert client.post("/predict", content=image, headers=headers).status_code == 200
    for host, origin in (
        ("localhost:9000", "http://localhost:9000"),  # a forwarded port
        ("photos.example.org", "https://photos.example.org"),  # a proxy that ends TLS
        ("photos.example.org:8443", "https://photos.example.org:8443"),
        ("[::1]:8000", "http://[::1]:8000"),
    ):
        assert client.post("/predict", content=image, headers={"host": host, "origin": origin}).status_code == 200
    # On this machine another server may have the port of https.
    headers = {"host": "localhost", "origin": "https://localhost"}
    assert client.post("/predict", content=image, headers=headers).status_code == 403


def test_two_hosts_or_one_foreign_of_two_origins_are_refused(client: TestClient) -> None:
    assert client.get("/health", headers=[("host", "localhost"), ("host", "localhost")]).status_code == 421
    both = [("origin", HERE), ("origin", "http://evil.example")]
    assert client.get("/health", headers=both).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_elsewhere_may_link_here_and_show_nothing_of_it(client: TestClient, site: str) -> None:
    """What a browser says where it sends no Origin: images, scripts, frames, links."""
    link = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client.get("/", headers=link).status_code == 200
    assert client.delete("/tasks/x", headers=link).status_code == 403
    for mode, dest in (("no-cors", "image"), ("no-cors", "script"), ("navigate", "iframe"), ("cors", "empty")):
        headers = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
        assert client.get("/tasks", headers=headers).status_code == 403


def test_browsers_are_told_to_keep_answers_from_other_pages(client: TestClient) -> None:
    for response in (client.get("/tasks"), client.get("/nothing"), client.get("/health", headers={"host": "x"})):
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert response.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in response.headers


@given(st.text())
def test_nothing_but_a_name_and_a_port_is_an_authority(text: str) -> None:
    found = authority(text)
    if found is not None:
        assert not set(found.name) & set("/?#@[] \n")
        assert found.port is None or text.rpartition(":")[2].isdigit()


def test_a_name_to_serve_is_a_name() -> None:
    assert [host_name(name) for name in ("Photos.Example.org", "192.0.2.5", "::2", "[::2]")] == [
        "photos.example.org", "192.0.2.5", "::2", "::2"
    ]  # fmt: skip
    for name in ("http://a", "a:80", "a/b", "", "*", "a b", "*."):
        with pytest.raises(InputError, match="no name of a host"):
            host_name(name)
