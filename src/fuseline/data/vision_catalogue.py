"""Which of torchvision's data sets hold pictures with one class each, how their parts are opened, and where their files lie.

``VISION_SETS`` and ``LEFT_OUT`` together name all of ``torchvision.datasets.__all__``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Arguments = dict[str, Any]
Parts = dict[str, list[Arguments]]
"""``train`` and ``test``, or one part without a name; each is opened piece by piece, by these constructor arguments."""


@dataclass(frozen=True)
class Division:
    """One way to take a set.

    Attributes:
        files: where its files lie below the root: files, folders or patterns; each must be there.
        parts: see ``Parts``.
    """

    files: tuple[str, ...]
    parts: Parts


@dataclass(frozen=True)
class VisionSet:
    """A class of ``torchvision.datasets``.

    Attributes:
        divisions: by the name that the setting ``split`` has; the first is taken where it has none.
        channels: 1 for a set of grey pictures.
        names: the attribute that holds the classes' names, if there is one.
        download: whether the class can download it.
        must_choose: whether ``split`` must be given.
        unpickled: what the class would unpickle without a check of its own (patterns below the root).
        order: a key for each row of an opened part, where the class itself takes them as the file system gives them.
    """

    divisions: Mapping[str, Division]
    channels: int = 3
    names: str = "classes"
    download: bool = True
    must_choose: bool = False
    unpickled: tuple[str, ...] = ()
    order: Callable[[Any], list[Any]] | None = None


TRAIN_TEST: Parts = {"train": [{"train": True}], "test": [{"train": False}]}
SPLIT: Parts = {"train": [{"split": "train"}], "test": [{"split": "test"}]}
JUDGED_BY_VAL: Parts = {"train": [{"split": "train"}], "test": [{"split": "val"}]}
"""Sets whose test rows have no classes in public: the validation part takes their place."""
WITH_VAL: Parts = {"train": [{"split": "train"}, {"split": "val"}], "test": [{"split": "test"}]}
TRAINVAL: Parts = {"train": [{"split": "trainval"}], "test": [{"split": "test"}]}
UNDIVIDED: Parts = {"": [{}]}


def _one(files: str | tuple[str, ...], parts: Parts, **settings: Any) -> VisionSet:
    return VisionSet({"": Division((files,) if isinstance(files, str) else files, parts)}, **settings)


def _each(argument: str, values: Mapping[str, Any], files: Callable[[str], tuple[str, ...]], parts: Parts) -> dict[str, Division]:
    """One division per value of a constructor argument."""
    return {
        name: Division(files(name), {part: [{**piece, argument: value} for piece in its] for part, its in parts.items()})
        for name, value in values.items()
    }


def _mnist(name: str, files: str = "*-ubyte") -> VisionSet:
    """A set of the family of MNIST. What older versions of torchvision left in ``processed`` is still preferred, and loaded by
    ``torch.load``."""
    return _one(f"{name}/raw/{files}", TRAIN_TEST, channels=1, unpickled=(f"{name}/processed/*.pt",))


def _places(size: str, small: bool, variant: str) -> Division:
    train = {"split": f"train-{variant}", "small": small}
    files = ("categories_places365.txt", f"places365_train_{variant}.txt", "places365_val.txt")
    folders = (f"data_{size}_{variant}", f"val_{size}")
    return Division((*files, *folders), {"train": [train], "test": [{"split": "val", "small": small}]})


def _naturalist(train: str) -> Division:
    parts = {"train": [{"version": train}], "test": [{"version": "2021_valid"}]}
    return Division((train, "2021_valid"), parts)


VISION_SETS: dict[str, VisionSet] = {
    "CIFAR10": _one("cifar-10-batches-py", TRAIN_TEST),
    "CIFAR100": _one("cifar-100-python", TRAIN_TEST),
    "MNIST": _mnist("MNIST"),
    "FashionMNIST": _mnist("FashionMNIST"),
    "KMNIST": _mnist("KMNIST"),
    "QMNIST": _mnist("QMNIST", "qmnist-*"),
    "EMNIST": VisionSet(
        _each(
            "split",
            {name: name for name in ("balanced", "letters", "digits", "mnist", "byclass", "bymerge")},
            lambda name: (f"EMNIST/raw/emnist-{name}-*-ubyte",),
            TRAIN_TEST,
        ),
        channels=1,
        must_choose=True,
        unpickled=("EMNIST/processed/*.pt",),
    ),
    "SVHN": VisionSet(
        {
            "": Division(("train_32x32.mat", "test_32x32.mat"), SPLIT),
            "extra": Division(
                ("train_32x32.mat", "extra_32x32.mat", "test_32x32.mat"),
                {"train": [{"split": "train"}, {"split": "extra"}], "test": [{"split": "test"}]},
            ),
        }
    ),
    "STL10": _one("stl10_binary", SPLIT),
    "USPS": _one(("usps.bz2", "usps.t.bz2"), TRAIN_TEST, channels=1),
    "SEMEION": _one("semeion.data", UNDIVIDED, channels=1),
    "GTSRB": _one("gtsrb", SPLIT),
    "Flowers102": _one("flowers-102", WITH_VAL),
    "Food101": _one("food-101", SPLIT),
    "OxfordIIITPet": _one("oxford-iiit-pet", TRAINVAL),
    "DTD": VisionSet(_each("partition", {str(k): k for k in range(1, 11)}, lambda _: ("dtd",), WITH_VAL)),
    "EuroSAT": _one("eurosat", UNDIVIDED),
    "FGVCAircraft": VisionSet(
        _each(
            "annotation_level",
            {name: name for name in ("variant", "family", "manufacturer")},
            lambda _: ("fgvc-aircraft-2013b",),
            TRAINVAL,
        )
    ),
    "Country211": _one("country211", {"train": [{"split": "train"}, {"split": "valid"}], "test": [{"split": "test"}]}),
    "RenderedSST2": _one("rendered-sst2", WITH_VAL),
    "Imagenette": VisionSet(
        _each(
            "size",
            {name: name for name in ("full", "320px", "160px")},
            lambda name: ("imagenette2" if name == "full" else f"imagenette2-{name.removesuffix('px')}",),
            JUDGED_BY_VAL,
        )
    ),
    "PCAM": _one("pcam/*.h5", WITH_VAL),
    "Caltech101": _one("caltech101/101_ObjectCategories", UNDIVIDED, names="categories"),
    "Caltech256": _one("caltech256/256_ObjectCategories", UNDIVIDED, names="categories"),
    "SUN397": _one("SUN397", UNDIVIDED, order=lambda opened: opened._image_files),
    "Omniglot": VisionSet(
        _each(
            "background",
            {"background": True, "evaluation": False},
            lambda name: (f"omniglot-py/images_{name}",),
            UNDIVIDED,
        ),
        channels=1,
        names="_characters",
        order=lambda opened: [(opened._characters[code], file) for file, code in opened._flat_character_images],
    ),
    "FER2013": _one("fer2013", SPLIT, channels=1, download=False),
    "CLEVRClassification": _one("clevr/CLEVR_v1.0", JUDGED_BY_VAL),
    "StanfordCars": _one("stanford_cars", SPLIT, download=False),
    "Places365": VisionSet(
        {
            "large": _places("large", False, "standard"),
            "256": _places("256", True, "standard"),
            "challenge": _places("large", False, "challenge"),
            "challenge-256": _places("256", True, "challenge"),
        }
    ),
    "INaturalist": VisionSet(
        {
            "2021_train": _naturalist("2021_train"),
            "2021_train_mini": _naturalist("2021_train_mini"),
            **{year: Division((year,), {"": [{"version": year}]}) for year in ("2017", "2018", "2019")},
        },
        names="all_categories",
        order=lambda opened: opened.index,
    ),
    "ImageNet": _one(("train", "val"), JUDGED_BY_VAL, download=False, unpickled=("meta.bin",)),
    "LFWPeople": VisionSet(
        _each(
            "image_set",
            {name: name for name in ("funneled", "deepfunneled", "original")},
            lambda _: ("lfw-py",),
            {"": [{"split": "10fold"}]},
        ),
        names="class_to_idx",
        download=False,
    ),
}

LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(("ImageFolder", "DatasetFolder"), "it reads any folder of pictures; use the source image_folder"),
    "VisionDataset": "it is what the others are made from",
    "FakeData": "its pictures are random noise",
    "LSUN": "it unpickles a file in the working folder that nothing vouches for",
    "LSUNClass": "it unpickles a file in the working folder that nothing vouches for",
    "CelebA": "each picture has 40 attributes and no class; use the source image_folder with a table of them",
    **dict.fromkeys(("Kinetics", "HMDB51", "UCF101", "MovingMNIST"), "its rows are videos"),
    **dict.fromkeys(("CocoCaptions", "Flickr8k", "Flickr30k", "SBU"), "its pictures have sentences and no class"),
    **dict.fromkeys(("CocoDetection", "VOCDetection", "WIDERFace", "Kitti"), "its pictures have boxes and no class"),
    **dict.fromkeys(("VOCSegmentation", "Cityscapes", "SBDataset"), "its pictures have masks and no class"),
    **dict.fromkeys(("PhotoTour", "LFWPairs"), "its rows are pairs of pictures"),
    **dict.fromkeys(("KittiFlow", "Sintel", "FlyingChairs", "FlyingThings3D", "HD1K"), "its rows are pairs with optical flow"),
    **dict.fromkeys(
        (
            "Kitti2012Stereo",
            "Kitti2015Stereo",
            "CarlaStereo",
            "Middlebury2014Stereo",
            "CREStereo",
            "FallingThingsStereo",
            "SceneFlowStereo",
            "SintelStereo",
            "InStereo2k",
            "ETH3DStereo",
        ),
        "its rows are pairs with depth",
    ),
}
"""Why each of torchvision's other sets is no source."""
