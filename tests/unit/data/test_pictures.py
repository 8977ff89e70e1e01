"""A folder of pictures: what is decoded, which rows it makes, and what is refused by file and row."""

from __future__ import annotations

import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2.functional import InterpolationMode, resize

from fuseline.component import Component, complete
from fuseline.data import decoding
from fuseline.data.dataset import prepare
from fuseline.data.decoding import open_picture, pixels, scratch, stack
from fuseline.data.pictures import EXTENSIONS, image_folder
from fuseline.data.sources import SOURCES, origin_key
from fuseline.errors import DataError, RecipeError
from fuseline.recipe import Data, Target
from fuseline.store import Store

RANDOM = np.random.default_rng(0)


def image(height: int = 6, width: int = 8) -> Image.Image:
    return Image.fromarray(RANDOM.integers(0, 256, (height, width, 3)).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with two pictures each, and things that are none."""
    for i, name in enumerate(["cat/b.png", "cat/a.png", "dog/deep/er/c.PNG", "dog/d.png"]):
        file = tmp_path / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (i, 10 + i, 20 + i)).save(file)
    for other in ("cat/notes.txt", "cat/.hidden.png", ".thumbnails/x.png", "README.md"):
        file = tmp_path / "pictures" / other
        file.parent.mkdir(exist_ok=True)
        file.write_text("no picture")
    return tmp_path / "pictures"


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., str]:
    def write(**columns: Any) -> str:
        pd.DataFrame(columns).to_csv(tmp_path / "rows.csv", index=False)
        return str(tmp_path / "rows.csv")

    return write


def key(**settings: Any) -> str:
    return origin_key(complete(Component(name="image_folder", settings=settings), SOURCES, "data.source"))


# ------------------------------------------------------------------------------------------------------- folders, tables


def test_folders_are_classes_and_rows_come_in_the_order_of_their_names(folder: Path) -> None:
    raw = image_folder(path=str(folder))
    assert raw.frame.to_dict("list") == {
        "file": ["cat/a.png", "cat/b.png", "dog/d.png", "dog/deep/er/c.PNG"],
        "class": ["cat", "cat", "dog", "dog"],
    }
    assert raw.image is not None
    assert (raw.image.dtype, raw.image.shape) == (np.uint8, (4, 3, 6, 8))
    assert raw.image[:, :, 0, 0].tolist() == [[i, 10 + i, 20 + i] for i in (1, 0, 3, 2)]
    assert (raw.image == raw.image[:, :, :1, :1]).all()


def test_a_table_names_files_and_brings_its_columns(folder: Path, table: Callable[..., str]) -> None:
    listed = table(file=["dog/d.png", "cat/a.png", "dog/d.png"], y=[1.5, 2.5, None], name=["x", "y", "z"])
    raw = image_folder(path=str(folder), table=listed)
    assert raw.frame.columns.tolist() == ["file", "y", "name"]
    assert raw.image is not None
    assert raw.image[:, 0, 0, 0].tolist() == [3, 1, 3]
    pd.read_csv(listed).to_parquet(folder / "rows.parquet")
    again = image_folder(path=str(folder), table=str(folder / "rows.parquet"))
    assert again.image is not None
    assert (again.image == raw.image).all()


def test_a_folder_of_pictures_becomes_a_data_set(folder: Path, store: Store) -> None:
    source = Component(name="image_folder", settings={"path": str(folder), "size": 5})
    dataset, _ = prepare(Data(source=source, id="file"), {"y": Target(kind="classification", column="class")}, store)
    assert dataset.schema.image == (3, 5, 5)
    assert dataset.ids.tolist()[0] == "cat/a.png"
    assert dataset.targets["y"].tolist() == [0, 0, 1, 1]
    assert dataset.inputs["image"][:, 0, 0, 0].tolist() == [1, 0, 3, 2]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cat/a.png", "../secret.png"], "row 1, file '../secret.png': the file lies outside"),
        (["cat/a.png", "cat/../cat/b.png"], "row 1"),
        (["/etc/hostname"], "row 0, file '/etc/hostname': the file lies outside"),
        (["cat/a.png", "cat/link.png"], "row 1, file 'cat/link.png': the file lies outside"),
        (["circle/a.png"], "row 0"),
        (["cat/gone.png"], "row 0, file 'cat/gone.png': there is no such file"),
        (["cat"], "row 0, file 'cat': there is no such file"),
        (["cat/a.png", None], "row 1, file 'nan': this is not the name"),
        ([7], "row 0, file '7': this is not the name"),
        (["a" * 5000], "row 0"),
        (["cat/notes.txt"], "row 0, file 'cat/notes.txt': not readable as a picture"),
    ],
)
def test_a_row_whose_file_can_not_be_taken_is_named(
    folder: Path, table: Callable[..., str], refusal: Callable[..., str], names: list[Any], words: str
) -> None:
    image().save(folder.parent / "secret.png")
    (folder / "cat" / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "circle").symlink_to(folder / "circle")
    assert words in refusal(DataError, image_folder, path=str(folder), table=table(file=names, y=range(len(names))))


def test_a_null_byte_is_no_file_name(folder: Path, refusal: Callable[..., str]) -> None:
    pd.DataFrame({"file": ["a\0.png"]}).to_parquet(folder / "t.parquet")
    assert "row 0" in refusal(DataError, image_folder, path=str(folder), table=str(folder / "t.parquet"))


def test_tables_that_are_none_are_refused(folder: Path, table: Callable[..., str], refusal: Callable[..., str]) -> None:
    path = str(folder)
    assert "'file'" in refusal(DataError, image_folder, path=path, table=table(picture=["cat/a.png"]))
    assert "no pictures" in refusal(DataError, image_folder, path=path, table=table(file=[]))
    assert "gone.csv" in refusal(DataError, image_folder, path=path, table="gone.csv")
    (folder / "t.txt").write_text("file\n")
    assert "t.txt" in refusal(DataError, image_folder, path=path, table=str(folder / "t.txt"))


def test_folders_that_hold_no_classes_are_refused(folder: Path, tmp_path: Path, refusal: Callable[..., str]) -> None:
    assert "no such folder" in refusal(DataError, image_folder, path=str(tmp_path / "gone"))
    (tmp_path / "empty").mkdir()
    assert "no pictures" in refusal(DataError, image_folder, path=str(tmp_path / "empty"))
    (folder / "none").mkdir()
    assert str(folder / "none") in refusal(DataError, image_folder, path=str(folder))
    (folder / "none").rmdir()
    (folder / "around").symlink_to(folder)
    assert "around: links" in refusal(DataError, image_folder, path=str(folder))
    (folder / "around").unlink()
    image().save(folder / "loose.png")
    assert "loose.png" in refusal(DataError, image_folder, path=str(folder))


# ------------------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("extension", sorted(EXTENSIONS))
def test_every_kind_of_file_is_decoded(tmp_path: Path, extension: str) -> None:
    (tmp_path / "c").mkdir()
    shown = Image.new("RGB", (8, 6), (200, 100, 50))
    shown.save(tmp_path / "c" / f"a{extension}")
    raw = image_folder(path=str(tmp_path))
    assert raw.image is not None
    assert np.abs(raw.image[0].reshape(3, -1).T.astype(int) - (200, 100, 50)).max() <= 8, "some kinds lose a little"


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)), st.tuples(st.integers(1, 30), st.integers(1, 30)), st.sampled_from([1, 3])
)
def test_pictures_are_resized_as_torchvision_does(given_size: tuple[int, int], size: tuple[int, int], channels: int) -> None:
    shown = np.random.default_rng(0).integers(0, 256, (channels, *given_size)).astype(np.uint8)
    opened = Image.fromarray(shown[0] if channels == 1 else shown.transpose(1, 2, 0))
    expected = resize(torch.from_numpy(shown), list(size), InterpolationMode.BILINEAR, antialias=True).numpy()
    assert np.abs(pixels(opened, size, channels).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((6, 8, 3), np.uint8)
    upright[:, :4, 0] = upright[:3, :, 1] = 255
    back = {  # how the camera held it: the inverse of what EXIF's orientation asks for
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(back[orientation](upright))).save(tmp_path / "a.png", exif=exif)
    assert (pixels(open_picture(tmp_path / "a.png"), None, 3) == upright.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_becomes_bytes_of_colour_or_grey(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        shown = Image.fromarray(np.full((6, 8), 255 * 256 + 7, np.uint16))
    else:
        shown = Image.new("RGB", (8, 6), (255, 255, 255)).convert(mode)
    if mode == "P":
        shown.info["transparency"] = bytes([255, 0, 0])
    shown.save(tmp_path / "a.png")
    for channels in (1, 3):
        assert pixels(open_picture(tmp_path / "a.png"), None, channels).tolist() == np.full((channels, 6, 8), 255).tolist()


def test_pixels_of_32_bits_are_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / "c").mkdir()
    Image.new("F", (8, 6), 0.5).save(tmp_path / "c" / "a.tiff")
    assert "c/a.tiff" in refusal(DataError, image_folder, path=str(tmp_path))


def test_the_first_frame_of_several_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 6), value) for value in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (pixels(open_picture(tmp_path / "a.gif"), None, 1) == 10).all()


def test_pictures_of_several_sizes_need_one(folder: Path, refusal: Callable[..., str]) -> None:
    image(7, 9).save(folder / "dog" / "wide.png")
    sentence = refusal(DataError, image_folder, path=str(folder))
    assert "file 'dog/wide.png': the picture is 7×9 pixels, but the first picture is 6×8" in sentence
    assert "'size'" in sentence
    for size, expected in ((5, (5, 5)), ((4, 7), (4, 7))):
        raw = image_folder(path=str(folder), size=size, channels=1)
        assert raw.image is not None
        assert raw.image.shape == (5, 1, *expected)


@pytest.mark.parametrize("size", [0, -1, [8], [8, 8, 8], 10**6, "large"])
def test_a_size_is_one_or_two_positive_numbers(folder: Path, refusal: Callable[..., str], size: Any) -> None:
    source = Component(name="image_folder", settings={"path": str(folder), "size": size})
    assert "size" in refusal(RecipeError, complete, source, SOURCES, "data.source")


# --------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".bmp", ".tif", ".gif"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_file_is_named(folder: Path, refusal: Callable[..., str], extension: str, share: float) -> None:
    file = folder / "dog" / f"cut{extension}"
    image(40, 40).save(file)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    assert f"row 2, file 'dog/cut{extension}': not readable" in refusal(DataError, image_folder, path=str(folder), size=8)


def test_a_file_of_another_kind_behind_a_pictures_name_is_named(folder: Path, refusal: Callable[..., str]) -> None:
    (folder / "dog" / "d.png").write_text("<svg/>")
    assert "dog/d.png" in refusal(DataError, image_folder, path=str(folder))


def test_decoders_that_are_not_needed_are_not_reached(folder: Path, refusal: Callable[..., str]) -> None:
    image().save(folder / "dog" / "d.png", format="PPM")
    assert "dog/d.png" in refusal(DataError, image_folder, path=str(folder))


def claimed(width: int, height: int) -> bytes:
    """A small PNG that says it is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_a_picture_that_claims_gigabytes_is_not_decoded(folder: Path, refusal: Callable[..., str]) -> None:
    for width, height in ((40_000, 40_000), (10_000, 10_000)):
        (folder / "dog" / "d.png").write_bytes(claimed(width, height))
        sentence = refusal(DataError, image_folder, path=str(folder), size=8)
        assert "dog/d.png" in sentence
        assert "pixels" in sentence


def test_the_cap_is_ours(folder: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 47)
    assert "it has 8×6 pixels, more than 47" in refusal(DataError, image_folder, path=str(folder), size=8)


def test_of_several_bad_rows_the_first_is_named(tmp_path: Path, refusal: Callable[..., str]) -> None:
    def load(i: int) -> Image.Image:
        if i in (70, 71, 300):
            raise OSError("broken")
        return Image.new("L", (2, 2))

    for _ in range(5):
        assert "row 70:" in refusal(DataError, stack, 400, load, lambda i: f"row {i}", None, 1)


# --------------------------------------------------------------------------------------------------- files, not memory


def test_the_array_lives_in_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    array = scratch((4, 3, 5, 5))
    array[2] = 7
    assert isinstance(array, np.memmap)
    assert array.sum() == 7 * 75
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_one_sentence_and_no_signal(refusal: Callable[..., str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        sentence = refusal(DataError, scratch, (3 * 2**20,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "no room for 3 MiB" in sentence
    assert "TMPDIR" in sentence


# ------------------------------------------------------------------------------------------------------------------ key


def test_the_key_follows_pictures_table_and_settings(folder: Path, table: Callable[..., str]) -> None:
    listed = table(file=["cat/a.png", "dog/d.png"], y=[1, 2])
    seen = {key(path=str(folder)), key(path=str(folder), size=4), key(path=str(folder), table=listed)}
    assert len(seen) == 3
    before, alone = key(path=str(folder)), key(path=str(folder), table=listed)
    (folder / "cat" / "notes.txt").write_text("changed")
    assert key(path=str(folder)) == before
    image().save(folder / "cat" / "b.png")
    assert key(path=str(folder)) != before
    assert key(path=str(folder), table=listed) == alone, "the table does not name that picture"
    assert key(path=str(folder), table=table(file=["cat/a.png", "dog/d.png"], y=[1, 3])) != alone
    before = key(path=str(folder))
    (folder / "cat" / "b.png").rename(folder / "cat" / "e.png")
    assert key(path=str(folder)) != before
