"""Pictures to one array of bytes: decoded in threads, into a file instead of memory.

Shapes: N pictures of C channels (1 grey, 3 red, green and blue), H rows and W columns: (N, C, H, W) uint8.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import Field

from fuseline.errors import DataError, first_line

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")
"""The decoders that a file may reach; Pillow has far more, each a way in for a damaged or hostile file."""

MAX_PIXELS = 89_478_485
"""A picture with more pixels is refused before it is decoded: a few kilobytes may claim gigabytes. It is the number from which
Pillow warns, a quarter of a gigabyte in three channels."""

BLOCK = 32
"""So many pictures are one piece of work for a thread."""

Edge = Annotated[int, Field(ge=1, le=8192)]
Size = Edge | tuple[Edge, Edge] | None
"""Height and width, one number for a square, or None where all pictures have one size."""


def open_picture(file: Path) -> Image.Image:
    """A decoded picture, turned as its EXIF orientation says; the first frame where there are several.

    Raises:
        ValueError: it has more than ``MAX_PIXELS``; whatever else Pillow raises for a file that it can't decode.
    """
    with Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"it has {width}×{height} pixels, more than {MAX_PIXELS}")
        return ImageOps.exif_transpose(image)


def pixels(image: Image.Image, size: tuple[int, int] | None, channels: int) -> NDArray[np.uint8]:
    """A picture's bytes (C, H, W), brought to a height and width by bilinear interpolation with antialiasing.

    Transparency is dropped; 16 bits of grey become their upper 8, as Pillow itself does with 16 bits of colour.

    >>> pixels(Image.new("RGB", (4, 2), (255, 128, 0)), (1, 1), 3).ravel().tolist()
    [255, 128, 0]
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, and 8 are needed")
    if image.mode == "P":  # its transparency, if any, would make Pillow warn
        image = image.convert("RGBA")
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def stack(
    count: int, load: Callable[[int], Image.Image], where: Callable[[int], str], size: Size, channels: int
) -> NDArray[np.uint8]:
    """All pictures (N, C, H, W), in an array that lives in a file: see :func:`scratch`.

    Args:
        load: gives picture i; it is called from several threads.
        where: says which picture i is, for messages.
        size: see ``Size``.

    Raises:
        DataError: a picture can't be decoded, or has another size than the first one though no size is given.
    """
    pair = (size, size) if isinstance(size, int) else size

    def picture(i: int) -> NDArray[np.uint8]:
        try:
            return pixels(load(i), pair, channels)
        except Exception as error:  # a damaged file fails in as many ways as there are places for the damage
            raise DataError(f"{where(i)}: not readable as a picture ({first_line(error)}); mend or remove it.") from None

    shape = picture(0).shape
    images = scratch((count, *shape))

    def fill(start: int) -> None:
        for i in range(start, min(start + BLOCK, count)):
            its = picture(i)
            if its.shape != shape:
                text = f"{its.shape[1]}×{its.shape[2]} pixels, but the first picture is {shape[1]}×{shape[2]}"
                raise DataError(f"{where(i)}: the picture is {text}; give the source a 'size'.")
            images[i] = its

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(fill, range(0, count, BLOCK)):  # in order, so the first bad row is named; the rest is called off
            pass
    return images


def scratch(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array of bytes in a temporary file without a name, which is gone with the array, even after ``kill -9``.

    It lies where ``TMPDIR`` says. Room is taken at once: a disk that is full later would kill the process by SIGBUS.

    Raises:
        DataError: there is no room.
    """
    size = math.prod(shape)
    with tempfile.TemporaryFile() as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            room = f"{size / 2**20:.0f} MiB of decoded pictures in {tempfile.gettempdir()}"
            raise DataError(
                f"There is no room for {room} ({error.strerror}); make room, set TMPDIR, or give the source a smaller 'size'."
            ) from None
        return np.memmap(file, np.uint8, "w+", shape=shape)
