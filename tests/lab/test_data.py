"""Images of the lab: every reader, the subset, augmentation against torchvision and Pillow, and hostile input."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import cifar_npz
from torchgraft.errors import GraftError, LabError, SpecError
from torchgraft.io import import_torchvision
from torchgraft.lab.data import AUGMENTATIONS, Images, open_data, stores
from torchgraft.lab.data.augment import Boxes, resample
from torchgraft.lab.records import Data

Image = pytest.importorskip("PIL.Image")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    """Noise of a few large squares, so that JPEG keeps it roughly."""
    coarse = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height)))


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path, allow_pickle=True, **arrays)
    return f"npz:{path}"


def pixels_of(images: Images, batches: Any) -> torch.Tensor:
    """Undo the normalization: float pixels in 0..255."""
    mean = torch.tensor(images.mean).view(3, 1, 1)
    deviation = torch.tensor(images.deviation).view(3, 1, 1)
    return (torch.cat([pixels for pixels, _ in batches]) * deviation + mean) * 255


@pytest.fixture
def numbered(tmp_path: Path) -> str:
    """Twelve training images of three classes, each of one colour: 10 times its number; and three test images."""
    x = np.broadcast_to((np.arange(12) * 10).astype(np.uint8)[:, None, None, None], (12, 8, 8, 3))
    return npz(tmp_path / "n.npz", x_train=x, y_train=np.arange(12) % 3, x_test=x[:3], y_test=np.arange(3))


@pytest.fixture
def noise(tmp_path: Path) -> str:
    x = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)
    return npz(tmp_path / "noise.npz", x=x, y=np.arange(40) % 4)


# Digits, subset, batches


def test_digits_are_the_default_and_have_three_channels() -> None:
    images = open_data(Data(size=16))
    assert (images.classes, images.channels, images.train_count, images.test_count) == (10, 3, 1442, 355)
    assert images.names == tuple("0123456789") and "last fifth" in images.note
    pixels, labels = next(images.train(64, "none", seeded()))
    assert pixels.shape == (64, 3, 16, 16) and pixels.dtype == torch.float32 and labels.dtype == torch.int64
    assert torch.equal(pixels[:, 0], pixels[:, 1]) and torch.equal(pixels[:, 0], pixels[:, 2])
    assert open_data(Data(size=16)) is images


def test_every_training_image_comes_once_with_its_label(numbered: str) -> None:
    images = open_data(Data(name=numbered, size=8))
    for augment in AUGMENTATIONS:
        if not augment.startswith("crop"):  # a shift lets black in
            batches = list(images.train(5, augment, seeded()))
            assert [len(labels) for _, labels in batches] == [5, 5, 2]
            colours = pixels_of(images, batches).mean((1, 2, 3)).div(10).round().long()
            assert sorted(colours.tolist()) == list(range(12)), augment
            assert torch.equal(colours % 3, torch.cat([labels for _, labels in batches])), augment
            assert colours.tolist() != list(range(12)), "not shuffled"


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_equal_generators_give_equal_epochs_whatever_the_batch(noise: str, augment: str) -> None:
    images = open_data(Data(name=noise, size=16))
    generator = seeded()
    first, second = (torch.cat([x for x, _ in images.train(7, augment, generator)]) for _ in range(2))
    again = torch.cat([x for x, _ in images.train(32, augment, seeded())])
    torch.testing.assert_close(first, again, rtol=0, atol=1e-5)
    assert not torch.equal(first, second)


def test_random_numbers_are_drawn_before_the_first_batch(noise: str) -> None:
    images = open_data(Data(name=noise, size=16))
    generator = seeded()
    epoch = images.train(8, "paper", generator)
    generator.manual_seed(99)
    expected = images.train(8, "paper", seeded())
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(epoch, expected, strict=True))


def test_batches_are_normalized_by_the_training_subset(noise: str) -> None:
    images = open_data(Data(name=noise, size=16, train=20))
    pixels = torch.cat([x for x, _ in images.train(6, "none", seeded())]).double()
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(pixels.var((0, 2, 3), correction=0).sqrt(), torch.ones(3).double(), rtol=0, atol=1e-5)
    assert images.mean != open_data(Data(name=noise, size=16)).mean
    imagenet = open_data(Data(name=noise, size=16, train=20, normalize="imagenet"))
    assert imagenet.mean == (0.485, 0.456, 0.406) and imagenet.fingerprint == images.fingerprint
    raw = pixels_of(imagenet, imagenet.test(4))
    torch.testing.assert_close(raw, raw.round(), rtol=0, atol=1e-3)


def test_the_subset_is_balanced_nested_and_fixed_by_the_seed(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(4), [3, 20, 30, 47])
    x = np.arange(100, dtype=np.uint8).reshape(100, 1, 1).repeat(4, 1).repeat(4, 2)
    name = npz(tmp_path / "u.npz", x_train=x, y_train=labels, x_test=x, y_test=labels)

    def chosen(train: int, seed: int = 0) -> tuple[set[int], list[int]]:
        images = open_data(Data(name=name, size=4, train=train, seed=seed))
        batches = list(images.train(100, "none", seeded()))
        found = pixels_of(images, batches).mean((1, 2, 3)).round().int().tolist()
        return set(found), torch.bincount(torch.cat([y for _, y in batches])).tolist()

    small, counts = chosen(20)
    assert counts[0] == 3 and sum(counts) == 20 and max(counts[1:]) - min(counts[1:]) <= 1
    assert small < chosen(50)[0] and chosen(50)[1][0] == 3
    assert small == chosen(20)[0] != chosen(20, seed=1)[0]
    one, other = (open_data(Data(name=name, size=4, train=train, test=8)) for train in (20, 50))
    assert torch.equal(pixels_of(one, one.test(8)).round(), pixels_of(other, other.test(8)).round())
    assert one.fingerprint != other.fingerprint


def test_test_images_come_in_order_and_need_not_hold_every_class(numbered: str) -> None:
    images = open_data(Data(name=numbered, size=8, test=2))
    assert images.test_count == 2 and images.classes == 3
    assert [len(labels) for _, labels in images.test(1)] == [1, 1]


# Augmentation


def test_a_crop_equals_torchvisions() -> None:
    import_torchvision()
    from torchvision.transforms.v2 import functional

    image = torch.rand(1, 3, 40, 28)
    for top, left, height, width, size in [(3, 5, 11, 9, 16), (0, 0, 40, 28, 16), (7, 0, 33, 20, 8), (39, 27, 1, 1, 4)]:
        expected = functional.resized_crop(image, top, left, height, width, [size, size], antialias=True)
        found = resample(image, Boxes(torch.tensor([[top, left, height, width, 0, 0, 0]])), size)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        mirrored = resample(image, Boxes(torch.tensor([[top, left, height, width, 0, 0, 1]])), size)
        assert torch.equal(mirrored, found.flip(3))


def test_a_batch_equals_its_images_one_by_one() -> None:
    images = torch.randint(0, 256, (9, 3, 20, 20), dtype=torch.uint8)
    boxes = AUGMENTATIONS["paper"](torch.full((9, 2), 20), 12, seeded())
    whole = resample(images, boxes, 12)
    single = torch.cat([resample(images[i : i + 1], boxes[i : i + 1], 12) for i in range(9)])
    torch.testing.assert_close(whole, single, rtol=0, atol=1e-3)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize(("height", "width", "size"), [(40, 40, 16), (17, 30, 24)])
def test_image_by_image_equals_matrices(
    monkeypatch: pytest.MonkeyPatch, augment: str, height: int, width: int, size: int
) -> None:
    images = torch.randint(0, 256, (20, 3, height, width), dtype=torch.uint8)
    boxes = AUGMENTATIONS[augment](torch.tensor([height, width]).expand(20, 2), size, seeded())
    matrices = resample(images, boxes, size)
    monkeypatch.setattr("torchgraft.lab.data.augment._DENSE", 0)
    torch.testing.assert_close(resample(images, boxes, size), matrices, rtol=0, atol=2e-3)


def test_the_full_image_is_left_as_it_is() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    boxes = AUGMENTATIONS["none"](torch.full((2, 2), 8), 8, seeded())
    assert torch.equal(resample(images, boxes, 8), images.float())
    boxes.numbers[1, 6] = 1  # now the products run, for both
    torch.testing.assert_close(resample(images, boxes, 8)[0], images[0].float(), rtol=0, atol=1e-4)


def test_half_precision_of_the_caller_does_not_reach_the_pixels() -> None:
    images, boxes = torch.full((1, 3, 8, 8), 201), Boxes(torch.tensor([[1, 1, 5, 5, 0, 0, 0]]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = resample(images, boxes, 8)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.full((1, 3, 8, 8), 201.0))


def test_crop_pads_with_black_and_moves_by_an_eighth() -> None:
    import_torchvision()
    from torchvision.transforms.v2 import functional

    images = torch.randint(1, 256, (200, 3, 16, 16), dtype=torch.uint8)
    boxes = AUGMENTATIONS["crop_flip"](torch.full((200, 2), 16), 16, seeded())
    found = resample(images, boxes, 16)
    padded = functional.pad(images, [2, 2, 2, 2])
    shifts = boxes.numbers[:, 4:6]
    assert shifts.min() == -2 and shifts.max() == 2
    for image, (_, _, _, _, down, right, mirror), result in zip(padded, boxes.rows(), found, strict=True):
        expected = functional.crop(image, 2 + down, 2 + right, 16, 16).float()
        torch.testing.assert_close(result, expected.flip(2) if mirror else expected, rtol=0, atol=1e-3)
    assert not AUGMENTATIONS["crop"](torch.full((200, 2), 16), 16, seeded()).numbers[:, 6].any()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (30, 90), (400, 21)])
def test_the_papers_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    import_torchvision()
    from torchvision.transforms.v2 import RandomResizedCrop

    count = 4000
    numbers = AUGMENTATIONS["paper"](torch.tensor([height, width]).expand(count, 2), 32, seeded()).numbers
    top, left, tall, wide, down, right, mirror = numbers.unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (tall >= 1).all() and (wide >= 1).all()
    assert (top + tall <= height).all() and (left + wide <= width).all() and not (down | right).any()
    if height == width:
        share = tall * wide / (height * width)
        assert share.min() > 0.09 and share.max() == 1 and share.min() < 0.12
    assert abs(mirror.double().mean() - 0.5) < 0.03
    crop, image = RandomResizedCrop(32, scale=(0.1, 1.0)), torch.empty(3, height, width)
    drawn = [crop.make_params([image]) for _ in range(count)]
    theirs = torch.tensor([[each[key] for key in ("top", "left", "height", "width")] for each in drawn]).double()
    ours = numbers[:, :4].double()
    error = (ours.var(0) + theirs.var(0)).div(count).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 4.5 * error + 1e-9).all()
    assert ((ours.std(0) - theirs.std(0)).abs() <= 0.08 * theirs.std(0) + 1e-9).all()


def test_larger_images_are_cropped_before_they_shrink(tmp_path: Path) -> None:
    """A crop out of a large image is sharp: the resolution is not thrown away before."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)  # grey once it shrinks
    name = npz(tmp_path / "b.npz", x=np.stack([board] * 4), y=np.array([0, 0, 1, 1]))
    images = open_data(Data(name=name, size=16))
    shrunk = pixels_of(images, images.test(2))
    torch.testing.assert_close(shrunk, torch.full_like(shrunk, 127.5), rtol=0, atol=8)
    sharp = resample(torch.from_numpy(board)[None, None], Boxes(torch.tensor([[8, 8, 16, 16, 0, 0, 0]])), 16)
    assert torch.equal(sharp[0, 0], torch.from_numpy(board[8:24, 8:24]).float())


# Files of arrays


@pytest.mark.parametrize("layout", ["nhwc", "nchw", "nhw", "float", "pairs", "upper"])
def test_layouts_and_keys_of_arrays(tmp_path: Path, layout: str) -> None:
    x = np.random.default_rng(1).integers(0, 256, (10, 6, 6, 3), dtype=np.uint8)
    y = np.arange(10) % 2
    test = np.arange(10) >= 6
    made: dict[str, dict[str, Any]] = {
        "nhwc": {"images": x, "labels": y, "test": test},
        "nchw": {"x": x.transpose(0, 3, 1, 2), "targets": y[:, None], "test": test},
        "nhw": {"data": x[..., 0], "y": y.astype(np.uint8), "test": test},
        "float": {"data": (x / 255).astype(np.float32), "y": y, "test": test},
        "pairs": {"train_images": x[:6], "train_labels": y[:6], "test_images": x[6:], "test_labels": y[6:], "val": y},
        "upper": {"X_train": x[:6], "Y_train": y[:6], "X_test": x[6:], "Y_test": y[6:]},
    }
    images = open_data(Data(name=npz(tmp_path / "a.npz", names=np.array(["cat", "dog"]), **made[layout]), size=6))
    expected = torch.from_numpy(x[6:] if layout != "nhw" else x[6:, ..., :1].repeat(3, -1)).permute(0, 3, 1, 2)
    assert torch.equal(pixels_of(images, images.test(3)).round().byte(), expected)
    assert images.names == ("cat", "dog") and images.train_count == 6
    assert images.note == ("a.npz: val not used" if layout == "pairs" else "")


def test_undivided_arrays_give_the_last_fifth_of_each_class_to_the_test(tmp_path: Path) -> None:
    x = (np.arange(20, dtype=np.uint8) * 10).reshape(20, 1, 1).repeat(4, 1).repeat(4, 2)
    images = open_data(Data(name=npz(tmp_path / "u.npz", x=x, y=np.arange(20) % 2), size=4))
    assert pixels_of(images, images.test(9)).mean((1, 2, 3)).round().tolist() == [160, 170, 180, 190]
    assert "u.npz is not divided" in images.note


def encoded(pictures: list[np.ndarray], kind: str = "PNG") -> dict[str, np.ndarray]:
    pieces = []
    for each in pictures:
        buffer = io.BytesIO()
        Image.fromarray(each).save(buffer, kind)
        pieces.append(buffer.getvalue())
    ends = np.cumsum([0] + [len(piece) for piece in pieces])
    return {"jpeg": np.frombuffer(b"".join(pieces), dtype=np.uint8), "off": ends}


def test_encoded_images_of_one_shape_and_of_many(tmp_path: Path) -> None:
    same = [picture(i) for i in range(4)]
    mixed = [picture(i, 8 + 2 * (i % 2), 8) for i in range(4)]
    y, test = np.array([0, 1, 0, 1]), np.array([False, False, True, True])
    one = open_data(Data(name=npz(tmp_path / "one.npz", y=y, test=test, **encoded(same)), size=8))
    many = open_data(Data(name=npz(tmp_path / "many.npz", y=y, test=test, **encoded(mixed)), size=8))
    assert torch.equal(
        pixels_of(one, one.test(2)).round().byte(), torch.from_numpy(np.stack(same[2:])).permute(0, 3, 1, 2)
    )
    found = pixels_of(many, many.test(2)).round().byte()
    assert torch.equal(found[0], torch.from_numpy(mixed[2]).permute(2, 0, 1))
    assert torch.equal(found[1], torch.from_numpy(mixed[3][1:9]).permute(2, 0, 1))


def hostile_arrays() -> dict[str, tuple[dict[str, Any], str]]:
    x, y = np.zeros((6, 4, 4, 3), dtype=np.uint8), np.array([0, 1, 0, 1, 0, 1])
    x[::2] = 9
    bad = y.copy()
    bad[3] = -1
    jpeg = encoded(list(x))
    cut = {**jpeg, "jpeg": jpeg["jpeg"].copy()}
    cut["jpeg"][jpeg["off"][2] + 20 : jpeg["off"][3]] = 0
    deep = np.zeros(x.shape)
    deep[4, 0, 0, 0] = 1.5
    gap = np.where(y == 1, 2, 0)
    split = {"x_train": x, "y_train": y, "x_test": x}
    return {
        "no images": ({"y": y}, r"holds y, which lacks images: it needs"),
        "no labels": ({"x": x}, r"lacks class numbers"),
        "twice": ({"x": x, "images": x, "y": y}, r"images more than once \(images, x\)"),
        "negative": ({"x": x, "y": bad}, r"h\.npz, image 3: label -1 is no class number"),
        "float labels": ({"x": x, "y": y + 0.5}, r"of type float64: give class numbers as integers"),
        "one-hot": ({"x": x, "y": np.eye(2)[y]}, r"labels have shape \(6, 2\)"),
        "unequal": ({"x": x, "y": y[:5]}, r"6 images but 5 labels"),
        "empty": ({"x": x[:0], "y": y[:0]}, r"there are no images"),
        "flat": ({"x": x.reshape(6, -1), "y": y}, r"shape \(6, 48\) and no axis holds 1 or 3 channels"),
        "four channels": ({"x": np.zeros((6, 4, 4, 4), np.uint8), "y": y}, r"no axis holds 1 or 3"),
        "ambiguous": ({"x": np.zeros((6, 3, 4, 3), np.uint8), "y": y}, r"second axis or the last"),
        "too bright": ({"x": deep, "y": y}, r"h\.npz, image 4: float pixels must lie in 0\.\.1"),
        "nan": ({"x": np.full(x.shape, np.nan), "y": y}, r"image 0: float pixels"),
        "integers": ({"x": x.astype(np.int64), "y": y}, r"of type int64: save uint8"),
        "pickled": ({"x": np.array([None] * 6), "y": y}, r"pickled objects, which torchgraft never executes"),
        "gap": ({"x": x, "y": gap}, r"class 1 has no training image"),
        "named gap": ({"x": x, "y": y, "names": np.array(list("abc"))}, r"class 2 \(c\) has no training image"),
        "new class": ({**split, "y_test": y + 1}, r"\(test\), image 1: label 2 is no class number: use 0 to 1"),
        "half split": ({**split}, r"lacks test labels"),
        "mask type": ({"x": x, "y": y, "test": y}, r"test has type int64"),
        "mask full": ({"x": x, "y": y, "test": y < 9}, r"test is True for every image"),
        "single": ({"x": x[:2], "y": y[:2]}, r"image 0: it is the only image of class 0"),
        "flat colour": ({"x": x * 0, "y": y}, r"one and the same colour"),
        "huge label": ({"x": x, "y": y * 2**40}, r"class 1 has no training image"),
        "no off": ({"jpeg": jpeg["jpeg"], "y": y}, r"jpeg must be uint8 bytes"),
        "off short": ({"jpeg": jpeg["jpeg"], "off": jpeg["off"][1:], "y": y}, r"5 images but 6 labels"),
        "off wild": ({"jpeg": jpeg["jpeg"], "off": jpeg["off"] + 9, "y": y}, r"off does not ascend"),
        "damaged": ({**cut, "y": y}, r"h\.npz, image 2: it cannot be read as an image"),
    }


@pytest.mark.parametrize("case", hostile_arrays())
def test_bad_arrays_are_refused_by_name(tmp_path: Path, case: str) -> None:
    arrays, message = hostile_arrays()[case]
    with pytest.raises(LabError, match=message) as caught:
        open_data(Data(name=npz(tmp_path / "h.npz", **arrays), size=4))
    assert "h.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    with pytest.raises(LabError, match=r"f\.npz: there is no such file"):
        open_data(Data(name=f"npz:{path}"))
    path.write_bytes(pickle.dumps(os.getcwd))
    with pytest.raises(LabError, match=r"f\.npz is not a complete \.npz file"):
        open_data(Data(name=f"npz:{path}"))
    npz(path, x=np.zeros((9, 99, 99), np.uint8), y=np.arange(9) % 2)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(LabError, match=r"f\.npz is not a complete \.npz file"):
        open_data(Data(name=f"npz:{path}"))


def test_a_file_written_anew_is_read_anew(tmp_path: Path, numbered: str) -> None:
    before = open_data(Data(name=numbered, size=8))
    path = Path(numbered.removeprefix("npz:"))
    npz(path, x=np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8), y=np.arange(8) % 2)
    assert open_data(Data(name=numbered, size=8)).classes == 2 != before.classes


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"name": "digit"}, SpecError, r"unknown data set 'digit': did you mean 'digits'\? \(valid: digits, npz"),
        ({"name": "npz"}, LabError, r"'npz' does not say where the images are"),
        ({"name": "digits:x"}, LabError, r"takes no place"),
        ({"normalize": "mean"}, SpecError, r"unknown normalization 'mean'.*data, imagenet"),
        ({"size": 0}, LabError, r"cannot be 0 pixels wide"),
        ({"train": 99999}, LabError, r"cannot take 99999 training images of digits: there are 1442"),
        ({"test": 356}, LabError, r"cannot take 356 test images of digits: there are 355"),
        ({"train": 9}, LabError, r"9 training images of digits leave classes out: take at least 10"),
        ({"train": 0}, LabError, r"cannot take 0 training images"),
        ({"name": "folder:nowhere"}, LabError, r"folder:nowhere: there is no such folder"),
        ({"name": "cifar10:nowhere"}, LabError, r"cifar10:nowhere: there is no such folder"),
    ],
)
def test_bad_records_are_refused(wrong: dict[str, Any], error: type[GraftError], message: str) -> None:
    with pytest.raises(error, match=message):
        open_data(Data(**wrong))


def test_bad_calls_are_refused(numbered: str) -> None:
    images = open_data(Data(name=numbered, size=8))
    with pytest.raises(SpecError, match=r"unknown augmentation 'papers': did you mean 'paper'"):
        images.train(4, "papers", seeded())
    with pytest.raises(LabError, match="batches of 0 images"):
        images.train(0, "paper", seeded())
    with pytest.raises(LabError, match="batches of -1 images"):
        images.test(-1)


# Folders


def folder(root: Path, *, kind: str = "png", count: int = 5, height: int = 8, width: int = 8) -> Path:
    for label, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(picture(10 * label + number, height, width)).save(root / name / f"{number}.{kind}")
    return root


def test_a_folder_of_classes_and_one_that_is_divided(tmp_path: Path) -> None:
    images = open_data(Data(name=f"folder:{folder(tmp_path / 'whole')}", size=8))
    assert images.names == ("ant", "bee") and (images.train_count, images.test_count) == (8, 2)
    expected = torch.from_numpy(np.stack([picture(4), picture(14)])).permute(0, 3, 1, 2)
    assert torch.equal(pixels_of(images, images.test(2)).round().byte(), expected)
    folder(tmp_path / "two" / "train")
    (folder(tmp_path / "two" / "val", count=2) / "bee" / "readme.txt").write_text("hello")
    divided = open_data(Data(name=f"folder:{tmp_path / 'two'}", size=8))
    assert (divided.train_count, divided.test_count) == (10, 4)
    assert "1 files are no images" in divided.note


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_images_left_in_files_give_what_images_in_memory_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, augment: str
) -> None:
    data = Data(name=f"folder:{folder(tmp_path, height=70, width=90)}", size=12)
    memory = open_data(data)
    monkeypatch.setattr(stores, "MEMORY_LIMIT", 0)
    os.utime(tmp_path, ns=(1, 1))  # else the first opening is remembered
    files = open_data(data)
    assert isinstance(memory._train.store, stores.TensorStore) and isinstance(files._train.store, stores.ItemStore)
    assert files.mean == memory.mean and files.deviation == memory.deviation
    for one, other in zip(memory.train(3, augment, seeded()), files.train(3, augment, seeded()), strict=True):
        assert torch.equal(one[1], other[1])
        torch.testing.assert_close(one[0], other[0], rtol=0, atol=1.5 / 255 / min(files.deviation))
    for _ in files.train(1, augment, seeded()):
        break  # leaving early ends the threads


def test_large_images_are_shrunk_when_decoded(tmp_path: Path) -> None:
    images = open_data(Data(name=f"folder:{folder(tmp_path, kind='jpg', height=200, width=300)}", size=8))
    assert images._train.store.sizes.unique(dim=0).tolist() == [[32, 48]]
    whole = Image.fromarray(picture(4, 200, 300)).resize((8, 8), Image.Resampling.BILINEAR, (50, 0, 250, 200))
    found = pixels_of(images, images.test(1))[0]
    assert (found - torch.from_numpy(np.array(whole)).permute(2, 0, 1)).abs().mean() < 6


def test_images_of_other_modes_become_rgb(tmp_path: Path) -> None:
    root = folder(tmp_path)
    clear = Image.fromarray(picture(0)).convert("P")
    clear.info["transparency"] = bytes(range(256))
    clear.save(root / "ant" / "0.png")
    Image.fromarray(picture(0)[..., 0]).save(root / "ant" / "1.png")
    Image.fromarray(picture(0)).convert("CMYK").save(root / "ant" / "2.jpg")
    images = open_data(Data(name=f"folder:{root}", size=8))
    assert sum(len(labels) for _, labels in images.train(4, "paper", seeded())) == images.train_count == 9


def test_bad_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(root: Path, message: str) -> None:
        with pytest.raises(LabError, match=message):
            open_data(Data(name=f"folder:{root}", size=8))

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty has no folder in it")
    (tmp_path / "hollow" / "ant").mkdir(parents=True)
    refused(tmp_path / "hollow", "hollow: no image in it ends in")
    (folder(tmp_path / "gap") / "ape").mkdir()
    refused(tmp_path / "gap", r"class 1 \(ape\) has no training image")
    folder(tmp_path / "half" / "train")
    refused(tmp_path / "half", "has train/ but neither test/, val/")
    folder(tmp_path / "new" / "train")
    (folder(tmp_path / "new" / "test") / "cow").mkdir()
    refused(tmp_path / "new", r"new/test/cow: class 'cow' is unknown in train")
    broken = folder(tmp_path / "broken") / "bee" / "1.png"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    refused(tmp_path / "broken", r"broken/bee/1\.png: it cannot be read as an image \(.*\): replace or remove it")
    broken.write_bytes(b"not an image")
    refused(tmp_path / "broken", r"bee/1\.png: it cannot be read as an image \(cannot identify image file")
    Image.fromarray(np.full((8, 8), 999, dtype=np.uint16)).save(broken)
    refused(tmp_path / "broken", r"bee/1\.png: it has more than 8 bits a pixel")
    broken.write_bytes(content[:-30])
    monkeypatch.setattr(stores, "MEMORY_LIMIT", 0)
    with pytest.raises(LabError, match=r"broken/bee/1\.png: it cannot be read"):
        list(open_data(Data(name=f"folder:{tmp_path / 'broken'}", size=8)).train(2, "none", seeded()))


@pytest.mark.parametrize(
    ("name", "kind", "key"), [("cifar10", "CIFAR10", "labels"), ("cifar100", "CIFAR100", "fine_labels")]
)
def test_cifar_as_torchvision_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, key: str
) -> None:
    import_torchvision()
    from torchvision import datasets

    reader = getattr(datasets, kind)
    with pytest.raises(LabError, match=rf"{name}:.* does not hold {reader.base_folder} as published.*: unpack cifar"):
        open_data(Data(name=f"{name}:{tmp_path}"))
    base = tmp_path / reader.base_folder
    base.mkdir()
    x = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    labels = [0, 1, 2, 0, 1, 2]

    def put(file: str, content: Any) -> list[str]:
        (base / file).write_bytes(pickle.dumps(content))
        return [file, hashlib.md5((base / file).read_bytes()).hexdigest()]

    meta = put("meta", {reader.meta["key"]: ["a", "b", "c"]})
    monkeypatch.setattr(reader, "meta", {"filename": meta[0], "key": reader.meta["key"], "md5": meta[1]})
    monkeypatch.setattr(reader, "train_list", [put("one", {"data": x.reshape(6, -1), key: labels})])
    monkeypatch.setattr(reader, "test_list", [put("two", {"data": x[::-1].reshape(6, -1), key: labels[::-1]})])
    for place in (tmp_path, base):
        images = open_data(Data(name=f"{name}:{place}"))
        assert images.names == ("a", "b", "c") and images.train_count == 6
        assert torch.equal(pixels_of(images, images.test(4)).round().byte(), torch.from_numpy(x[::-1].copy()))
    (base / "one").write_bytes(pickle.dumps(os.getcwd))  # another file is never unpickled
    os.utime(tmp_path, ns=(1, 1))
    with pytest.raises(LabError, match="as published"):
        open_data(Data(name=f"{name}:{tmp_path}"))


def test_food101_in_its_own_layout(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="does not hold food-101 as published"):
        open_data(Data(name=f"food101:{tmp_path}"))
    root = folder(tmp_path / "food-101" / "images", kind="jpg").parent
    (root / "meta").mkdir()
    (root / "meta" / "train.json").write_text('{"ant": ["ant/0", "ant/1"], "bee": ["bee/0"]}')
    (root / "meta" / "test.json").write_text('{"ant": ["ant/2"], "bee": ["bee/3", "bee/9"]}')
    os.utime(tmp_path, ns=(1, 1))
    with pytest.raises(LabError, match=r"images/bee/9\.jpg: it cannot be read as an image \(No such file"):
        open_data(Data(name=f"food101:{tmp_path}", size=8))
    (root / "meta" / "test.json").write_text('{"ant": ["ant/2"], "bee": ["bee/3"]}')
    images = open_data(Data(name=f"food101:{tmp_path}", size=8))
    assert (images.names, images.train_count, images.test_count) == (("ant", "bee"), 3, 2)


# Hugging Face


def test_hugging_face_data_only_from_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision()
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    columns = {"img": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])}
    pictures = [Image.fromarray(picture(number)) for number in range(10)]
    table = {"img": pictures, "label": [number % 2 for number in range(10)]}
    whole = datasets.Dataset.from_dict(table, features=datasets.Features(columns))
    (tmp_path / "tiny").mkdir()
    whole.to_parquet(str(tmp_path / "tiny" / "train-00000-of-00001.parquet"))
    before = datasets.config.HF_HUB_OFFLINE
    for name in (str(tmp_path / "tiny"), "tiny"):  # a folder, and then what its reading left in the cache
        images = open_data(Data(name=f"hf:{name}", size=8))
        assert (images.names, images.train_count, images.test_count) == (("ant", "bee"), 8, 2)
        expected = torch.from_numpy(np.stack([picture(8), picture(9)])).permute(0, 3, 1, 2)
        assert torch.equal(pixels_of(images, images.test(2)).round().byte(), expected)
    with pytest.raises(LabError, match=r"hf:nobody/nothing is not on this machine .*: once run datasets\.load_dataset"):
        open_data(Data(name="hf:nobody/nothing"))
    assert before == datasets.config.HF_HUB_OFFLINE
    datasets.DatasetDict({"train": whole.remove_columns("label")}).save_to_disk(str(tmp_path / "disk"))
    with pytest.raises(LabError, match=r"\(train\) has columns img: one must hold images"):
        open_data(Data(name=f"hf:{tmp_path / 'disk'}"))


# The converter and the real data


def shard(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write a shard as those of the evaluation data: the inverse of what the converter undoes."""
    import lzma

    planes = images.transpose(1, 0, 2, 3).copy()
    planes[[0, 2]] -= planes[1]
    planes = np.diff(np.diff(planes, axis=-2, prepend=np.uint8(0)), axis=-1, prepend=np.uint8(0))
    with lzma.open(path, "wb") as file:
        np.save(file, planes)
    np.save(path.with_name(path.name.removesuffix(".npy.xz") + "_y.npy"), labels)


def test_the_converter_joins_shards_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).integers(0, 256, (36, 3, 32, 32), dtype=np.uint8)
    y = np.arange(36) % 3
    for number in range(11):  # 10 comes after 2
        shard(tmp_path / f"cifar10_train{number}.npy.xz", x[3 * number : 3 * number + 3], y[:3])
    shard(tmp_path / "cifar10_test.npy.xz", x[33:], y[:3])
    for extra in ([], ["--compress"]):
        output = tmp_path / "folder" / "out.npz"  # a fresh clone has no lab-data
        assert cifar_npz.main([str(tmp_path), "cifar10", str(output), *extra]) == 0
        assert "33 training and 3 test images of cifar10" in capsys.readouterr().out
        with np.load(output) as found:
            assert np.array_equal(found["x_train"], x[:33]) and np.array_equal(found["x_test"], x[33:])
            assert np.array_equal(found["y_train"], y[:33])
    assert open_data(Data(name=f"npz:{output}")).train_count == 33


def test_the_converter_refuses_what_is_missing_or_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(message: str, *, output: str = "out.npz") -> None:
        assert cifar_npz.main([str(tmp_path / "in"), "cifar10", str(tmp_path / output)]) == 1
        assert message in capsys.readouterr().err and not (tmp_path / output).exists()

    refused("there is no such folder")
    (tmp_path / "in").mkdir()
    refused("holds no cifar10_train0.npy.xz")
    x = np.zeros((2, 3, 32, 32), dtype=np.uint8)
    shard(tmp_path / "in" / "cifar10_train0.npy.xz", x, np.array([0, 1]))
    refused("holds no cifar10_test.npy.xz")
    refused("does not end in .npz", output="out.zip")
    shard(tmp_path / "in" / "cifar10_test.npy.xz", x, np.array([0, 10]))
    refused("does not hold 2 class numbers from 0 to 9")
    (tmp_path / "in" / "cifar10_test.npy.xz").write_bytes(b"rubbish")
    refused("cifar10_test.npy.xz cannot be read")


@pytest.mark.shared
def test_real_images_of_the_evaluation_data(shared: Path) -> None:
    name = f"npz:{shared / 'data' / 'images' / 'flowers5_128.npz'}"
    images = open_data(Data(name=name, size=32, train=300, test=50))
    assert images.names == ("daisy", "dandelion", "rose", "sunflower", "tulip") and images.note == ""
    labels = torch.cat([labels for _, labels in images.train(128, "paper", seeded())])
    assert torch.bincount(labels).tolist() == [60] * 5
    with pytest.raises(LabError, match="it is the only image of class 0"):
        open_data(Data(name=name.replace("flowers5_128", "imagenet1k_sample_224")))
    test = shared / "data" / "cifar" / "cifar100_test.npy.xz"
    pixels = cifar_npz.read_images(test)
    assert pixels.shape == (10000, 3, 32, 32)
    assert pixels.mean((0, 2, 3)) == pytest.approx([129.74, 124.27, 112.69], abs=0.1)  # known of CIFAR-100's test set
