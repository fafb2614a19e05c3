"""Rows of bits as pictures."""

from __future__ import annotations

import io
import math

import numpy as np

from qsample.support.optional import needs

GREY = 160


def mosaic(rows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Images beside and below each other on one page, 1 black on white, `[H, W]` uint8.

    The page is as square as their number allows; a grey line of one pixel parts the images, and
    empty places are grey.

    Args:
        rows: images of 0 and 1, one per row, `[N, d]`.
        shape: (rows, columns) of an image.
    """
    height, width = shape
    across = math.ceil(math.sqrt(len(rows) * height / width))
    down = math.ceil(len(rows) / across)
    page_shape = (down * (height + 1) + 1, across * (width + 1) + 1)
    page = np.full(page_shape, GREY, dtype=np.uint8)
    for k, row in enumerate(rows):
        line, column = divmod(k, across)
        top = line * (height + 1) + 1
        left = column * (width + 1) + 1
        page[top : top + height, left : left + width] = 255 * (1 - row.reshape(shape))
    return page


def png(page: np.ndarray, least: int = 400) -> bytes:
    """A grey picture as the bytes of a .png file, its pixels enlarged.

    Args:
        page: grey values, `[H, W]` uint8, 0 black.
        least: smallest length of the longer side, in pixels.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra that brings it.
    """
    with needs("experiments", "a picture"):
        from matplotlib.image import imsave
    scale = max(1, math.ceil(least / max(page.shape)))
    enlarged = page.repeat(scale, 0).repeat(scale, 1)
    file = io.BytesIO()
    imsave(file, enlarged, cmap="gray", vmin=0, vmax=255, format="png")
    return file.getvalue()
