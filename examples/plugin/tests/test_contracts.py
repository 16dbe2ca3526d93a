"""What the package brings keeps the contracts of EverCLIP, and is found by its names."""

from __future__ import annotations

from pathlib import Path

import everclip
from everclip.methods import METHODS, method_class
from everclip.selectors import selector_class
from everclip.streams import Protocol, open_stream
from everclip.testing import check_method, check_selector, check_stream
from everclip.testing.tiny import clip_folder, image_folder


def test_the_method_keeps_the_contract() -> None:
    assert "interrupted_within_a_task" in check_method(method_class("olora"), rank=2)


def test_the_selector_keeps_the_contract() -> None:
    check_selector(selector_class("nearest-mean"))


def test_the_stream_keeps_the_contract(tmp_path: Path) -> None:
    stream = open_stream(f"alphabet:{image_folder(tmp_path / 'birds', ['wren', 'robin', 'owl'])}", Protocol())
    check_stream(stream)
    assert [info.class_names for info in stream.infos] == [("owl", "robin"), ("wren",)]


def test_a_run(tmp_path: Path) -> None:
    birds = image_folder(tmp_path / "birds", ["wren", "robin", "owl"])
    settings = {
        "method": "olora", "selector": "nearest-mean", "stream": f"alphabet:{birds}", "device": "cpu",
        "backbone": str(clip_folder(tmp_path / "clip")), "iterations": 3, "batch": 4, "warmup": 1,
    }  # fmt: skip
    results = everclip.run(everclip.Config.of(settings), tmp_path / "run")
    assert (results["method"], results["scenario"]) == ("olora", "class-incremental")
    assert METHODS.origin("olora") == "everclip-olora 0.1.0"
