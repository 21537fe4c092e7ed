import hashlib
import io
import json
import tarfile

import pytest

from model import storage
from model.network import artifact
from model.network.artifact import ArtifactError, Description

GRAPH = b"a graph"


def description(**changes: object) -> Description:
    values = {
        "name": "scones",
        "version": "abc",
        "labels": ("bicycle", "van"),
        "threshold": 0.91,
        "threshold_reason": "99% precision",
        "input_size": 224,
        "graph_sha256": hashlib.sha256(GRAPH).hexdigest(),
        "made": {"manifest_sha256": "f00d"},
        "calibration": {"imagenet_scale": 1.25},
        "metrics": {"validation:accuracy": 0.987654},
    }
    return Description(**(values | changes))


def test_a_model_is_read_back_as_written(tmp_path):
    storage.write_files(tmp_path / "new" / "folder", artifact.contents(GRAPH, description()))

    assert artifact.check(tmp_path / "new" / "folder") == description()
    files = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert files == {"model.onnx", "model.json", "labels.json", "model-card.md"}


def test_labels_are_in_a_file_of_their_own():
    assert json.loads(artifact.contents(GRAPH, description())["labels.json"]) == ["bicycle", "van"]


def test_the_card_has_the_content_of_the_description():
    card = artifact.card(description())

    assert card.startswith("# scones abc\n")
    assert "Accept answers with a confidence of at least 0.91: 99% precision." in card
    for row in (
        "| validation:accuracy | 0.9877 |",
        "| manifest_sha256 | f00d |",
        "| imagenet_scale | 1.25 |",
    ):
        assert row in card.splitlines()
    assert "bicycle, van" in card


def test_the_card_has_no_empty_tables():
    assert "Calibration" not in artifact.card(description(calibration={}))


def test_calibration_and_metrics_are_optional(tmp_path):
    storage.write_files(tmp_path, artifact.contents(GRAPH, description()))
    values = json.loads((tmp_path / "model.json").read_text())
    del values["calibration"], values["metrics"]
    (tmp_path / "model.json").write_text(json.dumps(values))

    assert artifact.check(tmp_path) == description(calibration={}, metrics={})


def test_a_model_with_the_former_names_of_its_weights_is_read(tmp_path):
    former = dict(zip(("alpha", "beta", "a", "b", "c", "d", "e", "f"), range(8), strict=True))
    storage.write_files(tmp_path, artifact.contents(GRAPH, description(calibration=former)))

    assert artifact.check(tmp_path).calibration == former


def test_a_packed_model_is_unchanged_when_unpacked(tmp_path):
    files = artifact.contents(GRAPH, description())
    (tmp_path / "model.tar.gz").write_bytes(artifact.pack(files))

    with artifact.unpacked(tmp_path) as folder:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
        assert artifact.check(folder) == description()


def test_the_same_model_is_packed_to_the_same_bytes(monkeypatch):
    files = artifact.contents(GRAPH, description())

    first = artifact.pack(files)
    monkeypatch.setattr("time.time", lambda: 4e9)

    assert artifact.pack(files) == first
    assert artifact.pack(files | {"labels.json": b"[]"}) != first


def test_an_archive_does_not_reveal_who_made_it():
    with tarfile.open(fileobj=io.BytesIO(artifact.pack({"a": b"x"}))) as tar:
        (member,) = tar.getmembers()

    assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
    assert member.mode == 0o644


def test_writing_replaces_files_and_leaves_others_alone(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").write_bytes(b"not ours")

    storage.write_files(tmp_path, {"a": b"new"})

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new", "b": b"not ours"}


def test_a_failed_write_leaves_no_files(tmp_path):
    with pytest.raises(TypeError):
        storage.write_files(tmp_path, {"a": b"new", "b": None})

    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_graph_is_refused(tmp_path):
    storage.write_files(tmp_path, artifact.contents(GRAPH, description()))
    (tmp_path / "model.onnx").unlink()

    with pytest.raises(ArtifactError, match=r"model\.onnx cannot be read"):
        artifact.check(tmp_path)


def archive(path, name: str, kind: bytes, target: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    with tarfile.open(path, "w:gz") as tar:
        for file, content in artifact.contents(GRAPH, description()).items():
            held = tarfile.TarInfo(file)
            held.size = len(content)
            tar.addfile(held, io.BytesIO(content))
        tar.addfile(member)


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("../outside", tarfile.REGTYPE, ""),
        ("a/../../outside", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("link", tarfile.SYMTYPE, "model.onnx"),
        ("link", tarfile.LNKTYPE, "model.onnx"),
        ("device", tarfile.CHRTYPE, ""),
        ("pipe", tarfile.FIFOTYPE, ""),
    ],
)
def test_an_archive_with_a_link_or_a_path_outside_is_refused(tmp_path, name, kind, target):
    (tmp_path / "models").mkdir()
    archive(tmp_path / "models" / "model.tar.gz", name, kind, target)

    with (
        pytest.raises(ArtifactError, match="cannot be unpacked"),
        artifact.unpacked(tmp_path / "models"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_an_absolute_path_in_an_archive_stays_inside(tmp_path):
    outside = tmp_path / "outside"
    archive(tmp_path / "model.tar.gz", str(outside), tarfile.REGTYPE)

    with artifact.unpacked(tmp_path) as folder:
        assert (folder / str(outside).lstrip("/")).exists()
    assert not outside.exists()
