"""Rows of bits as pictures."""

from __future__ import annotations

import io
import math

import numpy as np

from qsample.support.optional import needs


def mosaic(rows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Images `[N, d]` of 0 and 1 beside and below each other, 1 black on white, `[height, width]` uint8.

    The grid is as square as N allows; a grey line of one pixel parts the images, and empty places are grey.
    """
    height, width = shape
    columns = math.ceil(math.sqrt(len(rows) * height / width))
    lines = math.ceil(len(rows) / columns)
    page = np.full((lines * (height + 1) + 1, columns * (width + 1) + 1), 160, dtype=np.uint8)
    for k, row in enumerate(rows):
        top, left = (k // columns) * (height + 1) + 1, (k % columns) * (width + 1) + 1
        page[top : top + height, left : left + width] = 255 * (1 - row.reshape(shape))
    return page


def png(page: np.ndarray, least: int = 400) -> bytes:
    """A grey picture as a .png file, each pixel enlarged so that the longer side has `least` pixels or more."""
    with needs("experiments", "a picture"):
        from matplotlib.image import imsave
    scale = max(1, math.ceil(least / max(page.shape)))
    file = io.BytesIO()
    imsave(file, page.repeat(scale, 0).repeat(scale, 1), cmap="gray", vmin=0, vmax=255, format="png")
    return file.getvalue()
