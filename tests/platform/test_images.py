"""Pictures: decoded and scaled as the job says, the same as bytes and as files; hostile ones."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from blindsum.platform.data import image_features
from blindsum.platform.data.computing import Computing
from blindsum.platform.data.image_features import LARGE, ImageFeatures
from blindsum.platform.data.kept_results import KeptResults
from blindsum.platform.data.table import load_data
from blindsum.platform.errors import DataError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.images_section import Images
from blindsum.platform.job.model_section import Cnn, Linear, Mlp
from blindsum.platform.training.models import build_model, counted

GREY = Images(kind="images", height=8, width=6, channels=1, center=[0.2], scale=[0.4])


def png(values: np.ndarray, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(values).save(content, kind)
    return content.getvalue()


def pictures(count: int, channels: int = 1) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    shape = (8, 6) if channels == 1 else (8, 6, 3)
    return [random.integers(0, 256, shape, np.uint8) for _ in range(count)]


def decoded(section: Images, contents: list[Any]) -> tuple[np.ndarray, dict[int, str]]:
    kind = ImageFeatures(section=section)
    table = pa.table({"image": pa.array(contents, pa.large_binary())})
    made = kind.compute(table)
    return made.features.dense(), dict(made.reasons)  # type: ignore[union-attr]


def contract(**changes: Any) -> DataSection:
    content: dict[str, Any] = {
        "features": GREY.model_dump(),
        "target": {"column": "ill", "classes": [0, 1]},
        "folds": {"kind": "random", "salt": "s", "test_fraction": 0.3},
    }
    return DataSection.model_validate(content | changes)


def test_pixels_are_scaled_by_the_jobs_constants() -> None:
    made = pictures(3)
    found, reasons = decoded(GREY, [png(one) for one in made])
    expected = (np.stack(made).reshape(3, -1) / 255 - 0.2) / 0.4
    assert found.dtype == np.float32 and not reasons
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_colours_are_channels_and_each_has_its_constants() -> None:
    section = Images(kind="images", height=8, width=6, center=[0.1, 0.2, 0.3], scale=[1.0])
    (made,) = pictures(1, 3)
    found, _ = decoded(section, [png(made)])
    expected = made.transpose(2, 0, 1) / 255 - np.array([0.1, 0.2, 0.3])[:, None, None]
    np.testing.assert_allclose(found.reshape(3, 8, 6), expected, atol=1e-6)


def test_other_sizes_modes_and_depths_are_read_as_pictures() -> None:
    flat = Images(kind="images", height=8, width=6, channels=1, center=[0.0], scale=[1.0])
    large = np.full((80, 60), 51, np.uint8)
    deep = np.full((8, 6), 51 * 256 + 9, np.uint16)
    colour = np.full((8, 6, 3), 51, np.uint8)
    clear = np.full((8, 6, 4), 51, np.uint8)
    found, reasons = decoded(
        flat, [png(large), png(deep), png(colour), png(clear), png(large, "JPEG")]
    )
    assert not reasons
    np.testing.assert_allclose(found, 51 / 255, atol=0.01)


def test_a_turned_photograph_stands_upright() -> None:
    made = np.zeros((6, 8), np.uint8)
    made[:, 0] = 255  # the left edge is the upper one
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(made).save(content, "PNG", exif=exif)
    found, _ = decoded(
        GREY.model_copy(update={"center": [0.0], "scale": [1.0]}), [content.getvalue()]
    )
    np.testing.assert_array_equal(found.reshape(8, 6)[0], 1.0)


def bomb() -> bytes:
    """A PNG of a few bytes that declares 100,000 by 100,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


def test_pictures_that_cannot_be_used_say_why() -> None:
    good = png(pictures(1)[0])
    gif = png(pictures(1)[0], "GIF")
    found, reasons = decoded(GREY, [good, b"no picture", good[:40], bomb(), b"", gif])
    assert len(found) == 1 and set(reasons) == {1, 2, 3, 4, 5}
    assert "pixels" in reasons[3] or "damaged" in reasons[3]
    assert "file cannot be read" in reasons[4] and "no PNG or JPEG" in reasons[5]


def test_a_picture_of_too_many_pixels_is_not_decoded() -> None:
    """One that Pillow itself would decode, from a file of 70 kB."""
    _, reasons = decoded(GREY, [png(np.zeros((8200, 8200), np.uint8))])
    assert reasons == {0: LARGE}


@given(st.binary(max_size=60), st.integers(0, 200), st.sampled_from(["PNG", "JPEG"]))
@settings(max_examples=150, deadline=None)
def test_damaged_pictures_never_end_the_silo(junk: bytes, at: int, kind: str) -> None:
    content = bytearray(png(pictures(1)[0], kind))
    at = min(at, len(content))
    content[at : at + len(junk)] = junk
    found, reasons = decoded(GREY, [bytes(content)])
    assert len(found) + len(reasons) == 1


# -- tables ---------------------------------------------------------------------------------------


def table(names: list[str] | None = None) -> pa.Table:
    contents: list[Any] = names or [png(one) for one in pictures(40)]
    return pa.table({"image": contents, "ill": [0, 1] * 20})


def test_files_beside_the_table_are_the_same_records_as_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for i, one in enumerate(pictures(40)):
        (tmp_path / f"scans/{i}.png").write_bytes(png(one))
    pq.write_table(table(), tmp_path / "bytes.parquet")
    pa.csv.write_csv(table([f"scans/{i}.png" for i in range(40)]), tmp_path / "names.csv")
    one, other = (
        load_data(tmp_path / name, contract(), tmp_path / "r.csv")
        for name in ("bytes.parquet", "names.csv")
    )
    assert one.fingerprint == other.fingerprint and one.earlier == ()
    np.testing.assert_array_equal(one.train.features, other.train.features)
    np.testing.assert_array_equal(one.test.labels, other.test.labels)


def test_no_file_outside_the_tables_folder_is_read(tmp_path: Path) -> None:
    """This fails if a name may lead anywhere."""
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(png(pictures(1)[0]))
    (tmp_path / "data/link.png").symlink_to(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "missing.png", "\0"):
        kind = ImageFeatures(section=GREY)
        named = pa.table({"image": [name]})
        assert kind.uniform(named, tmp_path / "data")["image"].to_pylist() == [b""]


def test_unusable_pictures_are_refused_or_dropped_and_listed_without_content(
    tmp_path: Path,
) -> None:
    wrong = table()
    contents = wrong["image"].to_pylist()
    contents[3] = b"SECRET"
    wrong = wrong.set_column(0, "image", pa.array(contents))
    pq.write_table(wrong, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="column 'image' has pictures of which one can say"):
        load_data(tmp_path / "a.parquet", contract(), tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_text().splitlines()[1].endswith("(6 bytes)")
    found = load_data(tmp_path / "a.parquet", contract(unparsable="drop"), tmp_path / "r.csv")
    assert found.dropped == 1 and len(found.train) + len(found.test) == 39


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"center": [0.1, 0.2]}, "one number, or 1"),
        ({"channels": 3, "height": 1024, "width": 1024}, "make it smaller"),
        ({"channels": 2}, "1 or 3"),
        ({"scale": [0.0]}, "greater than 0"),
    ],
)
def test_sections_that_cannot_be_meant_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Images.model_validate(GREY.model_dump() | changes)


# -- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 20), (1, 1, 9), (3, 2, 2)])
@pytest.mark.parametrize("channels", [[4], [16, 32], [3, 40, 5, 8]])
def test_a_cnn_has_the_parameters_that_its_section_counts(
    shape: tuple[int, ...], channels: list[int]
) -> None:
    section = Cnn(kind="cnn", channels=channels)
    model = build_model(section, shape, 3, seed=0, private=True)
    every = sum(p.numel() for p in model.parameters())
    assert counted(section, shape, 3) == (every, every)
    assert model(torch.zeros(2, int(np.prod(shape)))).shape == (2, 3)
    assert model(torch.zeros(0, int(np.prod(shape)))).shape == (0, 3)


@pytest.mark.parametrize("section", [Linear(kind="linear"), Mlp(kind="mlp", hidden=[7, 5])])
def test_other_models_count_their_parameters_too(section: Linear | Mlp) -> None:
    model = build_model(section, (1, 4, 5), 3, seed=0, private=True)
    every = sum(p.numel() for p in model.parameters())
    assert counted(section, (1, 4, 5), 3) == (every, every)


def test_pictures_that_take_long_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_features, "WORTH_S", 0.0)
    means = Computing(KeptResults(tmp_path))
    contents = [*map(png, pictures(5)), b"no picture"]
    table = pa.table({"image": pa.array(contents, pa.large_binary())})
    first = ImageFeatures(section=GREY).compute(table, means)
    decoded = list[bytes]()
    was = ImageFeatures._decoded

    def decode(self: ImageFeatures, content: bytes) -> Any:
        decoded.append(content)
        return was(self, content)

    monkeypatch.setattr(ImageFeatures, "_decoded", decode)
    again = ImageFeatures(section=GREY.model_copy(update={"scale": [0.5]})).compute(table, means)
    assert not decoded, "scaling is not kept"
    assert again.reasons == first.reasons == {5: image_features.UNREADABLE}
    np.testing.assert_array_equal(again.usable, first.usable)
    np.testing.assert_allclose(again.features.dense() * 0.5, first.features.dense() * 0.4, 1e-6)
    ImageFeatures(section=GREY.model_copy(update={"height": 4})).compute(table, means)
    assert len(decoded) == 6
