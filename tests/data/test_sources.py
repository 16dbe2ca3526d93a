"""The same images in every kind of source: the same classes, parts and contents come out of each."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from everclip.data import BadImage, How, read, read_images
from everclip.errors import InputError

CLASSES = ("golden retriever", "wren")
Files = dict[tuple[str, str, str], bytes]
"""(part, class, file name) → content."""


@pytest.fixture(scope="module")
def files() -> Files:
    random, found = np.random.default_rng(0), {}
    for part, count in (("train", 3), ("test", 2)):
        for name in CLASSES:
            for number in range(count):
                buffer = io.BytesIO()
                pixels = random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(buffer, "PNG" if number else "JPEG")
                found[part, name, f"{part}{number}.{'png' if number else 'jpg'}"] = buffer.getvalue()
    return found


def spelled(class_name: str, part: str) -> str:
    """As people do: one way here, another there."""
    return class_name.replace(" ", "_") if part == "train" else class_name


def paths(files: Files) -> Iterator[tuple[str, bytes]]:
    for (part, name, file), content in files.items():
        yield f"{part}/{spelled(name, part)}/{file}", content


def as_folder(files: Files, at: Path) -> Path:
    for path, content in paths(files):
        (at / "birds" / path).parent.mkdir(parents=True, exist_ok=True)
        (at / "birds" / path).write_bytes(content)
    return at / "birds"


def as_zip(files: Files, at: Path) -> Path:
    with zipfile.ZipFile(at / "birds.zip", "w") as archive:
        for path, content in paths(files):
            archive.writestr(path, content)
        archive.writestr("__MACOSX/train/._train0.jpg", b"of a system")
    return at / "birds.zip"


def add(archive: tarfile.TarFile, path: str, content: bytes) -> None:
    info = tarfile.TarInfo(path)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def as_tar(files: Files, at: Path) -> Path:
    with tarfile.open(at / "birds.tar", "w") as archive:
        for path, content in paths(files):
            add(archive, f"birds/{path}", content)
    return at / "birds.tar"


def rows(files: Files, at: Path) -> list[dict[str, str]]:
    as_folder(files, at)
    return [
        {"File_Name": f"birds/{path}", "Species": spelled(name, part), "Split": {"train": "Training"}.get(part, part)}
        for (path, _), (part, name, _) in zip(paths(files), files, strict=True)
    ]


def as_separated(suffix: str, by: str) -> Callable[[Files, Path], Path]:
    def write(files: Files, at: Path) -> Path:
        table = at / f"birds{suffix}"
        with table.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, ["File_Name", "Species", "Split"], delimiter=by)
            writer.writeheader()
            writer.writerows(rows(files, at))
        return table

    return write


def as_json_lines(files: Files, at: Path) -> Path:
    (at / "birds.jsonl").write_text("\n".join(map(json.dumps, rows(files, at))) + "\n\n")
    return at / "birds.jsonl"


def class_label(schema: pa.Schema) -> pa.Schema:
    """As `datasets` writes it."""
    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def as_parquet(files: Files, at: Path) -> Path:
    table = pa.table(
        {
            "image": [{"bytes": content, "path": name} for (_, _, name), content in files.items()],
            "label": pa.array([CLASSES.index(name) for _, name, _ in files]),
            "split": [part for part, _, _ in files],
        }
    )
    parquet.write_table(table.cast(class_label(table.schema)), at / "birds.parquet", row_group_size=3)
    return at / "birds.parquet"


def as_bytes_in_parquet(files: Files, at: Path) -> Path:
    table = pa.table(
        {
            "jpg": pa.array(list(files.values()), pa.binary()),
            "category": [spelled(name, part) for part, name, _ in files],
            "set": [part for part, _, _ in files],
        }
    )
    parquet.write_table(table, at / "birds.parquet")
    return at / "birds.parquet"


def as_paths_in_parquet(files: Files, at: Path) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows(files, at)), at / "birds.parquet")
    return at / "birds.parquet"


class Image_:
    """The feature of that name in `datasets`, as far as it is used."""

    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


Image_.__name__ = "Image"


class ClassLabel:
    def __init__(self, names: list[str]) -> None:
        self.names = names


class HuggingFace:
    """A data set that answers as those of `datasets` do; tests with the library itself are below."""

    def __init__(self, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
        self.columns, self.features = columns, features

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            assert not getattr(self.features[key], "decode", False), "that would decode all images at once"
            return self.columns[key]
        assert not any(getattr(feature, "decode", False) for feature in self.features.values())
        return {name: cells[key] for name, cells in self.columns.items()}

    def cast_column(self, name: str, feature: Any) -> HuggingFace:
        return HuggingFace(self.columns, self.features | {name: feature})

    def select_columns(self, names: list[str]) -> HuggingFace:
        return HuggingFace({name: self.columns[name] for name in names}, {name: self.features[name] for name in names})

    def with_format(self, kind: None) -> HuggingFace:
        return self


def hugging(files: Files, part: str) -> HuggingFace:
    own = {key: content for key, content in files.items() if key[0] == part}
    columns = {
        "label": [CLASSES.index(name) for _, name, _ in own],
        "picture": [{"bytes": content, "path": name} for (_, _, name), content in own.items()],
    }
    return HuggingFace(columns, {"label": ClassLabel(list(CLASSES)), "picture": Image_()})


def as_huggingface(files: Files, at: Path) -> dict[str, HuggingFace]:
    return {"train": hugging(files, "train"), "test": hugging(files, "test")}


def shard(files: Files, at: Path, suffix: str, label: Callable[[str], str]) -> Path:
    with tarfile.open(at / "0000.tar", "w") as archive:
        for number, ((_, name, file), content) in enumerate(files.items()):
            add(archive, f"{number:05d}.{file.rpartition('.')[2]}", content)
            add(archive, f"{number:05d}.{suffix}", label(name).encode())
        add(archive, "99999.cls", b"0")
    return at / "0000.tar"


def as_folder_of_parquet(files: Files, at: Path) -> Path:
    """As a data set is downloaded from the Hub."""
    (at / "birds" / "data").mkdir(parents=True)
    for part in ("train", "test"):
        own = [(name, content) for (of, name, _), content in files.items() if of == part]
        for number, half in enumerate((own[::2], own[1::2])):
            columns = {
                "image": [{"bytes": content, "path": None} for _, content in half],
                "label": pa.array([CLASSES.index(name) for name, _ in half]),
            }
            table = pa.table(columns)
            path = at / "birds" / "data" / f"{part}-0000{number}-of-00002.parquet"
            parquet.write_table(table.cast(class_label(table.schema)), path)
    (at / "birds" / "README.md").write_text("# Birds")
    return at / "birds"


def as_folder_of_shards(files: Files, at: Path) -> Path:
    for part in ("train", "test"):
        (at / "birds" / part).mkdir(parents=True)
        own = {key: content for key, content in files.items() if key[0] == part}
        shard(own, at / "birds" / part, "cls", lambda name: str(CLASSES.index(name)))
    (at / "birds" / "classnames.txt").write_text("\n".join(CLASSES))
    return at / "birds"


SOURCES = {
    "folder": as_folder,
    "zip": as_zip,
    "tar": as_tar,
    "csv": as_separated(".csv", ","),
    "semicolons": as_separated(".csv", ";"),
    "tsv": as_separated(".tsv", "\t"),
    "json lines": as_json_lines,
    "parquet": as_parquet,
    "bytes in parquet": as_bytes_in_parquet,
    "paths in parquet": as_paths_in_parquet,
    "folder of parquet": as_folder_of_parquet,
    "folder of shards": as_folder_of_shards,
    "datasets": as_huggingface,
}


@pytest.mark.parametrize("write", SOURCES.values(), ids=SOURCES)
def test_every_source_says_the_same(write: Callable[[Files, Path], Any], files: Files, tmp_path: Path):
    expected = read(as_folder(files, tmp_path / "expected"))
    found = read(write(files, tmp_path))
    assert found.class_names == expected.class_names == CLASSES
    assert not found.broken

    def contents(source: Any) -> list[tuple[str | None, str, str]]:
        return sorted((e.part or "", e.class_name, source.images.digest(e.image)) for e in source.entries)

    assert contents(found) == contents(expected)
    assert sorted(np.asarray(found.images.decode(n)).tobytes() for n in range(len(found))) == sorted(
        np.asarray(expected.images.decode(n)).tobytes() for n in range(len(expected))
    )
    learned, judged = found.to_learn(), found.to_judge()
    assert (len(learned.source), len(judged.source)) == (6, 4)
    assert learned.class_names == judged.class_names == CLASSES


@pytest.mark.parametrize("write", SOURCES.values(), ids=SOURCES)
def test_the_images_alone(write: Callable[[Files, Path], Any], files: Files, tmp_path: Path):
    images = read_images(write(files, tmp_path)).images
    digests = {images.digest(index) for index in range(len(images))}
    folder = read_images(as_folder(files, tmp_path / "expected")).images
    assert digests == {folder.digest(index) for index in range(len(folder))}


# -- tables ------------------------------------------------------------------------------------------------------------


def table(at: Path, text: str, name: str = "x.csv") -> Path:
    Image.new("RGB", (4, 4), "red").save(at / "a.png")
    Image.new("RGB", (4, 4), "blue").save(at / "b.png")
    (at / name).write_text(text)
    return at / name


def test_a_broken_line_is_one_skipped_line(tmp_path: Path):
    lines = "path,label,split\na.png,red,train\n,red,train\nb.png,,train\nb.png,blue,weekend\nb.png,blue,train,more\n"
    found = read(table(tmp_path, lines + 'http://x/y.png,blue,train\n\nb.png,"light, blue",\n'))
    assert found.class_names == ("red", "light, blue")
    reasons = {name.rpartition(", ")[2]: reason for name, reason in found.broken}
    assert reasons == {
        "line 3": "it names no image",
        "line 4": "it has no label",
        "line 5": "its part is 'weekend', which is none of train, valid and test",
        "line 6": "it has 4 cells, but there are 3 columns",
        "line 7": "it names an address, not a file; download the image first",
    }


def test_broken_lines_of_json(tmp_path: Path):
    lines = ['{"path": "a.png", "label": "red"}', "{", "[]", '{"path": "b.png", "label": {}}', '{"label": "red"}', ""]
    lines += ['{"path": "b.png", "label": ' + "9" * 5000 + "}", "[" * 100_000, '{"path": 3, "label": "red"}']
    found = read(table(tmp_path, "\n".join(lines), "x.jsonl"))
    assert len(found) == 1
    assert [name.rpartition(" ")[2] for name, _ in found.broken] == ["2", "3", "4", "5", "7", "8", "9"]


def test_columns_are_named_where_they_are_called_otherwise(tmp_path: Path):
    text = "bild,art,teil,image\na.png,rot,Training,b.png\nb.png,blau,val,a.png\n"
    source = table(tmp_path, text)
    with pytest.raises(InputError, match=r"no column that is called label.*by --label-column: bild, art, teil"):
        read(source)
    with pytest.raises(InputError, match="no column 'species'"):
        read(source, How(label_column="species"))
    found = read(source, How(path_column="Bild", label_column="art", part_column="teil"))
    assert [(e.class_name, e.part, Path(e.origin).name) for e in found.entries] == [
        ("rot", "train", "a.png"),
        ("blau", "valid", "b.png"),
    ]
    assert read(source, How(label_column="art")).images.name(0).endswith("b.png")


def test_columns_are_refused_where_there_are_none(files: Files, tmp_path: Path):
    for source in (as_folder(files, tmp_path), as_zip(files, tmp_path), [("a.png", "red")]):
        with pytest.raises(InputError, match="has no columns; leave out --label-column species"):
            read(source, How(label_column="species"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no row that can be read"),
        (b"path,label\n", "no row that can be read"),
        (b"path,label\n\xff\xfe,x\n", "not in UTF-8"),
        (b"path,label\na.png,\n", "no row that can be used .the first, .*line 2: it has no label"),
    ],
)
def test_a_table_without_use(content: bytes, says: str, tmp_path: Path):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(InputError, match=says):
        read(tmp_path / "x.csv")


def test_paths_of_another_system_and_files_that_are_gone(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    source = table(tmp_path, "path,label\nsub\\a.png,red\ngone.png,red\n")
    (tmp_path / "a.png").rename(tmp_path / "sub" / "a.png")
    found = read(source)
    assert found.images.decode(0).size == (4, 4)
    with pytest.raises(InputError, match=r"gone\.png: the file is not there"):
        found.images.decode(1)
    for missing in ("x.tsv", "x.zip", "x.parquet", "x.tar"):
        with pytest.raises(InputError, match="No such file"):
            read(tmp_path / missing)


# -- archives ----------------------------------------------------------------------------------------------------------


def test_what_an_archive_claims_does_no_harm(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = next(iter(files.values()))
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        add(archive, "../../../red/a.jpg", content)
        add(archive, "/etc/red/b.jpg", content)
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"red/{kind.decode()}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = read("x.tar")
    assert found.class_names == ("etc", "red")
    assert [found.images.decode(n).size for n in range(len(found))] == [(5, 6)] * 2
    assert sorted(tmp_path.rglob("*")) == before, "nothing is unpacked"


def test_a_member_of_too_many_bytes_is_one_bad_image(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    good = next(iter(files.values()))
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("red/good.jpg", good)
        archive.writestr("red/large.bmp", bytes(3_000_000))
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        add(archive, "red/good.jpg", good)
        add(archive, "red/large.bmp", bytes(3_000_000))
    for module in ("archives", "contents"):
        monkeypatch.setattr(f"everclip.data.{module}.MAX_BYTES", 2_000_000)
    for name in ("x.zip", "x.tar"):
        found = read(tmp_path / name)
        assert found.images.decode(0).size == (5, 6)
        with pytest.raises(InputError, match=r"large\.bmp: the file has more than"):
            found.images.decode(1)
        assert found.images.digest(0) != found.images.digest(1)


def test_a_header_that_claims_to_be_large(tmp_path: Path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**40
    with open(tmp_path / "x.tar", "wb") as file:
        file.write(info.tobuf())
        file.truncate(2**40)
    with pytest.raises(InputError, match="damaged or no such archive"):
        read(tmp_path / "x.tar")


def test_a_damaged_member_is_one_bad_image(files: Files, tmp_path: Path):
    source = as_zip(files, tmp_path)
    content = bytearray(source.read_bytes())
    content[zipfile.ZipFile(source).infolist()[0].header_offset + 200] ^= 255
    source.write_bytes(content)
    found = read(source)
    said = []
    for index in range(len(found)):
        try:
            found.images.decode(index)
        except InputError as error:
            said.append(str(error))
    assert len(said) == 1
    assert "birds.zip/train/" in said[0]


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.zst"])
def test_a_compressed_tar_is_refused_with_a_remedy(name: str, tmp_path: Path):
    with pytest.raises(InputError, match="decompress it first"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.parquet"])
def test_garbage_is_one_sentence(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(b"PK\3\4 something else" * 100)
    with pytest.raises(InputError, match="damaged or no"):
        read(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="it is a folder"):
        read(tmp_path / name)


# -- shards ------------------------------------------------------------------------------------------------------------


def test_shards_of_webdataset(files: Files, tmp_path: Path):
    numbers = shard(files, tmp_path, "cls", lambda name: str(CLASSES.index(name)))
    with pytest.raises(InputError, match=r"classnames\.txt beside it"):
        read(numbers)
    (tmp_path / "classnames.txt").write_text("\n".join(CLASSES))
    found = read(numbers)
    assert found.class_names == CLASSES
    assert found.left_out == {"cls without an image": 1}
    expected = read(as_folder(files, tmp_path / "expected"))
    said = {(e.class_name, found.images.digest(e.image)) for e in found.entries}
    assert said == {(e.class_name, expected.images.digest(e.image)) for e in expected.entries}
    assert read(shard(files, tmp_path, "cls", str)).class_names == CLASSES
    named = shard(files, tmp_path, "json", lambda name: json.dumps({"caption": "a bird", "species": name}))
    assert read(named).class_names == CLASSES
    other = shard(files, tmp_path, "json", lambda name: json.dumps({"bird": name, "label": "x"}))
    assert read(other, How(label_column="bird")).class_names == CLASSES


def test_a_folder_of_shards_says_what_else_lies_there(files: Files, tmp_path: Path):
    found = read(as_folder_of_parquet(files, tmp_path))
    assert found.name == "birds"
    assert found.left_out == {".md": 1}
    (tmp_path / "birds" / "wren").mkdir()
    (tmp_path / "birds" / "wren" / "a.jpg").write_bytes(b"")
    mixed = read(tmp_path / "birds")
    assert mixed.class_names == ("wren",), "a folder with images is a folder of images"
    assert mixed.left_out[".parquet"] == 4


def test_a_broken_sample_is_one_skipped_line(files: Files, tmp_path: Path):
    labels = iter(["{", "[]", '{"label": 1.5}', *[json.dumps({"label": "wren"})] * len(files)])
    found = read(shard(files, tmp_path, "json", lambda name: next(labels)))
    assert len(found.broken) == 3
    assert len(found) == len(files) - 3


# -- Parquet and datasets ----------------------------------------------------------------------------------------------


def test_broken_rows_of_parquet(files: Files, tmp_path: Path):
    good = next(iter(files.values()))
    table = pa.table(
        {
            "image": [
                {"bytes": good, "path": None},
                {"bytes": None, "path": "gone.jpg"},
                {"bytes": b"nonsense", "path": None},
                {"bytes": good, "path": None},
                None,
            ],
            "label": pa.array([0, 1, 0, -1, 1]),
        }
    )
    parquet.write_table(table.cast(class_label(table.schema)), tmp_path / "x.parquet", row_group_size=2)
    found = read(tmp_path / "x.parquet")
    assert [(Path(name).name, reason) for name, reason in found.broken] == [
        ("x.parquet, row 3", "it has the label -1, but the classes are 0 to 1")
    ]
    reasons = []
    for index in range(len(found)):
        try:
            assert found.images.decode(index).size == (5, 6)
        except InputError as error:
            reasons.append(str(error).partition(", ")[2])
    assert reasons == [
        "row 1: it is not in the file, which only names gone.jpg",
        "row 2: the content is not an image of a known format",
        "row 4: there is no image in it",
    ]


def test_groups_of_rows_are_read_in_any_order(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("everclip.data.parquet.KEPT", 1)
    found = read(as_parquet(files, tmp_path))
    forward = [found.images.digest(index) for index in range(len(found))]
    assert [found.images.digest(index) for index in reversed(range(len(found)))] == forward[::-1]
    assert len(set(forward)) == len(files)


def test_a_streamed_data_set_is_refused():
    streamed = SimpleNamespace(features={}, column_names=[], cast_column=None)
    with pytest.raises(InputError, match="load it without streaming"):
        read(streamed)


def test_the_library_datasets_itself(files: Files, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    sets = {}
    for part in ("train", "test"):
        own = [(name, content) for (of, name, _), content in files.items() if of == part]
        columns = {"img": [{"bytes": c, "path": None} for _, c in own], "label": [CLASSES.index(n) for n, _ in own]}
        sets[part] = datasets.Dataset.from_dict(columns, features=features)
    expected = read(as_folder(files, tmp_path))
    for source in (datasets.DatasetDict(sets), sets["train"]):
        found = read(source)
        assert found.class_names == CLASSES
        wanted = {expected.images.digest(e.image) for e in expected.entries if e.part == "train"}
        learned = found.to_learn().source
        assert {learned.digest(index) for index in range(len(learned))} == wanted
        assert learned.decode(0).size == (5, 6)
    sets["train"].to_parquet(tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet").class_names == CLASSES


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "tar", "csv", "json lines", "parquet", "bytes in parquet"])
def test_damage_anywhere_is_one_sentence(kind: str, files: Files, tmp_path: Path):
    source = SOURCES[kind](files, tmp_path)
    intact, random = source.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(intact)
        for _ in range(random.integers(1, 6)):
            place = int(random.integers(len(damaged)))
            damaged[place : place + int(random.integers(3))] = random.bytes(int(random.integers(3)))
        source.write_bytes(damaged)
        for reader in (read, read_images):
            try:
                images = reader(source).images
            except InputError:
                continue
            for index in range(len(images)):
                assert images.digest(index)
                with contextlib.suppress(BadImage):
                    images.decode(index)
