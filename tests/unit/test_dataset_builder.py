import hashlib
import importlib
import io
import json
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from model.data import cifar, dataset
from model.data.builder import Photo, split_by_hash
from model.data.cifar import ArchiveError
from model.data.dataset import DatasetError
from scones import cli

CLASSES = ["apple", "bicycle", "bus", "motorcycle", "pickup_truck"]


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def python_2_pickle(value: object) -> bytes:
    """What Python 2 makes of a value: its text is bytes, and numpy's functions are where they were then."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: object) -> bytes:
    match value:
        case bytes():
            return b"T" + struct.pack("<i", len(value)) + value
        case int():
            return b"J" + struct.pack("<i", value)
        case list():
            return b"](" + b"".join(map(_opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(_opcodes(key) + _opcodes(item) for key, item in value.items()) + b"u"
        case np.ndarray():
            empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\x01btR"
            dtype = b"cnumpy\ndtype\n(U\x02u1K\0K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
            shape = b"(" + b"".join(map(_opcodes, value.shape)) + b"t"
            return empty + b"(K\x01" + shape + dtype + b"\x89" + _opcodes(value.tobytes()) + b"tb"
    raise TypeError(value)


def rows(classes: list[str], first: int) -> dict[bytes, object]:
    """A picture of each class, its planes as CIFAR has them."""
    return {
        b"data": np.stack([image(first + i).transpose(2, 0, 1).ravel() for i in range(len(classes))]),
        b"fine_labels": [CLASSES.index(name) for name in classes],
        b"filenames": [f"bike_s_{i}.png".encode() for i in range(len(classes))],
    }


TRAIN = ["bicycle", "motorcycle", "bus", "bicycle", "motorcycle"]
TEST = ["motorcycle", "bicycle", "bus"]
OFFICIAL = {
    "meta": python_2_pickle({b"fine_label_names": [name.encode() for name in CLASSES]}),
    "train": python_2_pickle(rows(TRAIN, first=0)),
    "test": python_2_pickle(rows(TEST, first=100)),
}


def archive(path: Path, members: dict[str, bytes] = OFFICIAL) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def cifar_100(tmp_path) -> Path:
    return archive(tmp_path / "cifar-100-python.tar.gz")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Ten photos of each of two labels."""
    for i in range(20):
        add_photo(tmp_path / "photos" / ("bicycle", "motorcycle")[i % 2] / f"{i}.png", seed=i)
    return tmp_path / "photos"


def add_photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image(seed)).save(path)
    return path


def data(source: Path, *arguments: object) -> Result:
    out = source.parent / "data"
    return CliRunner().invoke(cli, ["data", "--source", str(source), "--out", str(out), *map(str, arguments)])


def fails(result: Result, reason: str) -> bool:
    """Whether it ended in one line that says why."""
    return result.exit_code == 1 and reason in result.output and result.output.count("\n") == 1


def labels_by_file(folder: Path, split: str) -> dict[str, str]:
    found = dataset.read(folder, split)
    return {
        path.relative_to(folder).as_posix(): found.labels[target]
        for path, target in zip(found.paths, found.targets, strict=True)
    }


# From CIFAR-100


def test_cifar_becomes_png_files_indexes_and_a_manifest(cifar_100):
    result = data(cifar_100)

    out = cifar_100.parent / "data"
    assert result.exit_code == 0, result.output
    assert (out / "train.lst").read_text().splitlines() == [
        "0\t0\ttrain/bicycle/bike_s_0.png",
        "1\t0\ttrain/bicycle/bike_s_3.png",
        "2\t1\ttrain/motorcycle/bike_s_1.png",
        "3\t1\ttrain/motorcycle/bike_s_4.png",
    ]
    assert (out / "test.lst").read_text() == (
        "0\t0\ttest/bicycle/bike_s_1.png\n1\t1\ttest/motorcycle/bike_s_0.png\n"
    )
    assert np.array_equal(np.asarray(Image.open(out / "train/bicycle/bike_s_3.png")), image(3))
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert (manifest["labels"], manifest["source"]) == (["bicycle", "motorcycle"], cifar_100.name)
    assert manifest["counts"] == {
        "train": {"bicycle": 2, "motorcycle": 2},
        "test": {"bicycle": 1, "motorcycle": 1},
    }
    for path, sha256 in manifest["sha256"].items():
        assert hashlib.sha256((out / path).read_bytes()).hexdigest() == sha256
    assert len(manifest["sha256"]) == 6


def test_classes_are_labels_in_the_order_given(cifar_100):
    data(cifar_100, "--classes", "motorcycle, bus,bicycle")

    assert dataset.read(cifar_100.parent / "data").labels == ("motorcycle", "bus", "bicycle")


@pytest.mark.parametrize("other", ["bus", "all", "bus,apple"])
def test_other_classes_can_be_labelled_other(cifar_100, other):
    data(cifar_100, "--other", other)

    found = labels_by_file(cifar_100.parent / "data", "train")
    assert dataset.read(cifar_100.parent / "data").labels == ("bicycle", "motorcycle", "other")
    assert found["train/other/bike_s_2.png"] == "other"


def test_the_same_data_has_the_same_manifest(cifar_100):
    hashes = []
    for _ in range(2):
        data(cifar_100)
        hashes.append(dataset.read(cifar_100.parent / "data").manifest_sha256)

    assert hashes[0] == hashes[1]


def test_pickles_of_python_3_are_read_too(tmp_path):
    members = {
        "meta": pickle.dumps({b"fine_label_names": [name.encode() for name in CLASSES]}, 2),
        "train": pickle.dumps(rows(TRAIN, first=0), 2),
        "test": pickle.dumps(rows(TEST, first=100), 2),
    }

    found = cifar.read(archive(tmp_path / "archive.tar.gz", members))

    assert found.splits["train"].classes == TRAIN
    assert np.array_equal(found.splits["test"].pixels[2], image(102))


class Evil:
    def __init__(self, call: object, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("call", [os.system, exec, Path, np.load, getattr], ids=lambda call: call.__name__)
def test_a_pickle_that_would_run_code_is_rejected_without_running_it(tmp_path, call):
    proof = tmp_path / "proof"
    argument = f"open('{proof}', 'w')" if call is exec else f"touch {proof}"
    evil = pickle.dumps({b"data": Evil(call, argument)}, 2)

    result = data(archive(tmp_path / "archive.tar.gz", OFFICIAL | {"test": evil}))

    assert fails(result, " is not allowed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive.tar.gz"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps([1, 2]),
        OFFICIAL["train"][:2000],
        python_2_pickle(rows(TRAIN, 0) | {b"fine_labels": [0]}),
        python_2_pickle(rows(TRAIN, 0) | {b"fine_labels": [99] * 5}),
        python_2_pickle(rows(TRAIN, 0) | {b"data": b"no array"}),
        pickle.dumps({b"data": np.zeros((5, 3072), np.float64)}, 2),
    ],
    ids=["empty", "text", "list", "cut", "too few labels", "a label too high", "no array", "floats"],
)
def test_a_damaged_member_ends_in_one_line(tmp_path, content):
    result = data(archive(tmp_path / "archive.tar.gz", OFFICIAL | {"train": content}))

    assert fails(result, "is not an original CIFAR-100 archive")


@pytest.mark.parametrize("length", [0, 20, 400, 5000])
def test_an_archive_cut_short_ends_in_one_line(cifar_100, length):
    cifar_100.write_bytes(cifar_100.read_bytes()[:length])

    assert fails(data(cifar_100), cifar_100.name)
    assert sorted(path.name for path in cifar_100.parent.iterdir()) == [cifar_100.name]


def test_a_member_that_is_missing_or_a_link_is_not_followed(tmp_path):
    path = archive(tmp_path / "archive.tar.gz", {name: OFFICIAL[name] for name in ("meta", "train")})
    with tarfile.open(tmp_path / "linked.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo("cifar-100-python/test")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)

    with pytest.raises(ArchiveError, match="it lacks cifar-100-python/test"):
        cifar.read(path)
    with pytest.raises(ArchiveError, match=r"it lacks .*cifar-100-python/test"):
        cifar.read(tmp_path / "linked.tar.gz")


def test_a_member_larger_than_cifar_has_is_not_read(cifar_100, monkeypatch):
    monkeypatch.setattr(cifar, "MAX_MEMBER_BYTES", 5000)

    with pytest.raises(ArchiveError, match="train has"):
        cifar.read(cifar_100)


def test_file_names_in_an_archive_cannot_escape_the_folder(tmp_path):
    names = {b"filenames": [b"../../../escaped.png", b"a/b.png", b"c\td\n.png", b"..", b""]}
    path = archive(tmp_path / "archive.tar.gz", OFFICIAL | {"train": python_2_pickle(rows(TRAIN, 0) | names)})

    result = data(path, "--other", "bus")

    assert result.exit_code == 0, result.output
    assert len(labels_by_file(tmp_path / "data", "train")) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive.tar.gz", "data"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--classes", "bicycle,motorcyle"], "No such class: motorcyle. Did you mean motorcycle?"),
        (["--classes", "bicycle,scone"], "No such class: scone. Available: apple, bicycle, bus"),
        (["--classes", "bicycle,apple"], "There are no training photos of apple"),
        (["--other", "apple"], "There are no training photos of other"),
        (["--classes", "bicycle"], "at least two labels"),
        (["--other", "bicycle"], "bicycle cannot be both a label of its own and other"),
        (["--sha256", "0" * 64], "is not the expected file"),
    ],
)
def test_an_impossible_choice_of_classes_ends_in_one_line(cifar_100, arguments, reason):
    assert fails(data(cifar_100, *arguments), reason)
    assert not (cifar_100.parent / "data").exists()


# From a folder


def test_a_folder_is_split_by_content_and_its_files_stay_as_they_are(photos):
    data(photos, "--test-share", ".3")

    train, test = (labels_by_file(photos.parent / "data", split) for split in ("train", "test"))
    assert len(train) + len(test) == 20
    for path, label in (train | test).items():
        assert path.split("/")[1] == label
        original = photos / label / Path(path).name
        assert (photos.parent / "data" / path).read_bytes() == original.read_bytes()


def test_a_photo_stays_in_its_split_when_others_are_added_or_it_is_renamed(photos):
    data(photos)
    before = {Path(path).name for path in labels_by_file(photos.parent / "data", "test")}
    for i in range(20, 40):
        add_photo(photos / "bicycle" / f"{i}.png", seed=i)
    for i in range(0, 20, 2):
        (photos / "bicycle" / f"{i}.png").rename(photos / "bicycle" / f"{i}.PNG")
    data(photos)

    after = {Path(path).name.lower() for path in labels_by_file(photos.parent / "data", "test")}
    assert before <= after


def test_the_test_split_has_about_the_requested_share():
    many = [
        Photo("a", str(i), hashlib.sha256(bytes([i % 256, i // 256])).hexdigest(), b"") for i in range(2000)
    ]

    for share in (0.1, 0.5):
        test_photos = sum(photo.split == "test" for photo in split_by_hash(many, share))
        assert abs(test_photos / 2000 - share) < 0.03


def test_each_label_has_photos_in_both_splits(tmp_path):
    for i in range(4):
        add_photo(tmp_path / "photos" / ("bicycle", "bus")[i % 2] / f"{i}.png", seed=i)

    for share in ("0.01", "0.99"):
        data(tmp_path / "photos", "--test-share", share)
        for split in ("train", "test"):
            assert sorted(labels_by_file(tmp_path / "data", split).values()) == ["bicycle", "bus"]


def test_the_test_split_may_be_empty(photos):
    data(photos, "--test-share", "0")

    assert len(labels_by_file(photos.parent / "data", "train")) == 20
    with pytest.raises(DatasetError, match=r"test\.lst lists no photos"):
        dataset.read(photos.parent / "data", "test")


def test_duplicates_are_skipped(photos):
    for i in range(0, 20, 2):
        (photos / "bicycle" / f"copy of {i}.png").write_bytes((photos / "bicycle" / f"{i}.png").read_bytes())

    result = data(photos)

    manifest = json.loads((photos.parent / "data" / "manifest.json").read_bytes())
    assert len(manifest["sha256"]) == len(set(manifest["sha256"].values())) == 20
    assert "skipped: 10 duplicates" in result.output


def test_two_copies_of_one_photo_are_too_few_to_split(tmp_path):
    for i in range(2):
        add_photo(tmp_path / "photos" / "bicycle" / f"{i}.png", seed=0)

    assert fails(data(tmp_path / "photos"), "bicycle has only one photo")


def test_files_without_the_name_of_a_photo_are_skipped_and_listed(photos):
    for name in ("notes.txt", ".DS_Store", "._0.png"):
        (photos / "bicycle" / name).write_text("no photo")
    (photos / ".git").mkdir()

    result = data(photos)

    assert result.exit_code == 0, result.output
    assert f"skipped: {photos / 'bicycle' / 'notes.txt'} (not a photo, by its name)\n" in result.output
    assert "DS_Store" not in result.output


def test_a_photo_with_two_labels_ends_in_one_line(photos):
    (photos / "motorcycle" / "x.png").write_bytes((photos / "bicycle" / "0.png").read_bytes())

    assert fails(data(photos), "are the same photo, labelled bicycle and motorcycle")


def test_unreadable_photos_are_listed(photos):
    (photos / "bicycle" / "text.jpg").write_text("no photo")
    (photos / "bicycle" / "cut.png").write_bytes((photos / "bicycle" / "0.png").read_bytes()[:300])

    refused, skipped = data(photos), data(photos, "--skip-unreadable")

    assert fails(refused, "2 of 22 photos cannot be read: ")
    assert "cut.png" in refused.output
    assert "text.jpg" in refused.output
    assert skipped.exit_code == 0
    for name in ("cut.png", "text.jpg"):
        assert f"skipped: {photos / 'bicycle' / name} (cannot be read)" in skipped.output.splitlines()
    assert len(json.loads((photos.parent / "data" / "manifest.json").read_bytes())["sha256"]) == 20


def test_a_label_without_photos_ends_in_one_line(photos):
    (photos / "truck").mkdir()
    (photos / "truck" / "notes.txt").write_text("to do")

    assert fails(data(photos), "There are no training photos of truck")


def test_a_folder_whose_name_is_not_a_valid_label_ends_in_one_line(photos):
    add_photo(photos / "bikes, old" / "a.png", seed=90)

    assert fails(data(photos), "Not a valid label: 'bikes, old'")


def test_sub_folders_can_be_other(photos):
    add_photo(photos / "scones" / "a.png", seed=90)
    add_photo(photos / "scones" / "b.png", seed=91)

    data(photos, "--other", "scones")

    assert dataset.read(photos.parent / "data").labels == ("bicycle", "motorcycle", "other")


def test_reviewed_photos_join_the_training_photos(photos):
    reviewed = photos.parent / "reviewed"
    for i in range(20):
        name = ("bicycle", "motorcycle")[i % 2]
        (reviewed / name).mkdir(parents=True, exist_ok=True)
        (reviewed / name / f"reviewed-early-{i}.png").write_bytes((photos / name / f"{i}.png").read_bytes())
    add_photo(reviewed / "bicycle" / "0.png", seed=200)
    add_photo(reviewed / "other" / "scone.png", seed=201)

    result = data(photos, "--reviewed", reviewed)

    found = dataset.read(photos.parent / "data")
    assert result.exit_code == 0, result.output
    assert found.labels == ("bicycle", "motorcycle", "other")
    train, test = (labels_by_file(photos.parent / "data", split) for split in ("train", "test"))
    assert len(train) + len(test) == 22
    assert "train/other/scone.png" in train
    assert not {path for path in test if "reviewed-early" in path}
    assert not {path for path in train if "reviewed-early" in path}


def test_an_unknown_reviewed_label_ends_in_one_line(photos):
    add_photo(photos.parent / "reviewed" / "bicicle" / "a.png", seed=200)

    result = data(photos, "--reviewed", photos.parent / "reviewed")

    assert fails(result, f"No such label: bicicle, in {photos.parent / 'reviewed'}. Did you mean bicycle?")


# Writing


def test_an_earlier_data_set_is_replaced_as_a_whole(photos):
    data(photos)
    (photos / "bicycle" / "0.png").unlink()
    result = data(photos)

    assert result.exit_code == 0
    assert not list((photos.parent / "data").rglob("0.png"))
    assert sorted(path.name for path in photos.parent.iterdir()) == ["data", "photos"]


def test_an_earlier_data_set_stays_when_the_new_one_fails(photos, monkeypatch):
    data(photos)
    before = dataset.read(photos.parent / "data")
    (photos / "bicycle" / "text.jpg").write_text("no photo")
    unreadable = data(photos)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model.data.builder.write", full)
    unwritable = data(photos, "--skip-unreadable")

    assert fails(unreadable, "cannot be read")
    assert "cannot be written: No space left on device" in unwritable.output
    assert dataset.read(photos.parent / "data").manifest_sha256 == before.manifest_sha256
    assert sorted(path.name for path in photos.parent.iterdir()) == ["data", "photos"]


@pytest.mark.parametrize("other", ["thesis.txt", "train.lst", "manifest.json/x"])
def test_a_folder_with_other_files_is_not_overwritten(photos, other):
    file = photos.parent / "data" / other
    file.parent.mkdir(parents=True)
    file.write_text("years of work")
    if "/" in other:
        (photos.parent / "data" / "thesis.txt").write_text("years of work")

    assert fails(data(photos), "holds files that are not of a data set")
    assert file.read_text() == "years of work"


def test_a_file_in_place_of_the_output_folder_is_not_overwritten(photos):
    (photos.parent / "data").write_text("a file")

    assert fails(data(photos), "is a file")


@pytest.mark.parametrize("source", ["nowhere", "gopher://example.com/photos"])
def test_a_source_that_does_not_exist_ends_in_one_line(tmp_path, source):
    result = CliRunner().invoke(cli, ["data", "--source", source, "--out", str(tmp_path / "data")])

    assert fails(result, source)


# Reading


def test_a_plain_folder_is_a_data_set_too(photos):
    found = dataset.read(photos, "test")

    assert found.labels == ("bicycle", "motorcycle")
    assert found.manifest_sha256 is None
    assert (found.targets.tolist(), found.targets.dtype) == ([0] * 10 + [1] * 10, np.int64)
    assert {path.parent.name for path in found.paths[:10]} == {"bicycle"}


def test_a_data_set_is_identified_by_the_hash_of_its_manifest(photos):
    data(photos)
    content = (photos.parent / "data" / "manifest.json").read_bytes()

    found = dataset.read(photos.parent / "data", "test")

    assert found.manifest_sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("manifest.json", "{", "damaged"),
        ("manifest.json", "[]", "damaged"),
        ("manifest.json", '{"labels": [1]}', "damaged"),
        ("train.lst", "", "lists no photos"),
        ("train.lst", "0\t0\n", "line 1"),
        ("train.lst", "0\t2\ttrain/bicycle/0.png\n", "label number below 2"),
        ("train.lst", "0\t0\t../photos/bicycle/0.png\n", "inside the folder"),
        ("train.lst", "0\t0\t/etc/passwd\n", "inside the folder"),
        ("train.lst", "0\t0\ttrain/bicycle/gone.png\n", "missing"),
    ],
)
def test_a_damaged_data_set_ends_in_one_line_that_says_so(photos, name, content, reason):
    data(photos)
    (photos.parent / "data" / name).write_text(content)

    with pytest.raises(DatasetError, match=reason) as error:
        dataset.read(photos.parent / "data")
    assert "\n" not in str(error.value)


def test_a_folder_without_sub_folders_is_not_a_data_set(tmp_path):
    with pytest.raises(DatasetError, match="is not a data set"):
        dataset.read(tmp_path)
    with pytest.raises(DatasetError, match=r"No such folder: .*nowhere"):
        dataset.read(tmp_path / "nowhere")


def test_cifar_100_is_verified_by_its_sha256_unless_another_is_given(monkeypatch, tmp_path):
    checksums = []
    data = importlib.import_module("model.data.builder")
    monkeypatch.setattr(data, "download", lambda url, folder, sha256: checksums.append(sha256) or tmp_path)

    data.fetch_archive(data.CIFAR_100, None)
    data.fetch_archive(data.CIFAR_100, "00")

    assert checksums == [data.CIFAR_100_SHA256, "00"]
    assert len(data.CIFAR_100_SHA256) == 64
