"""The palette for colour-blind eyes: simulated after Viénot, Brettel and Mollon (1999), as distances in CIELAB."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from troupelab.dashboard.look import ACCENTS, BLUE, ORANGE

# Viénot, Brettel and Mollon (1999), "Digital video colourmaps for checking the legibility of displays by dichromats",
# as matrices on linear sRGB.
SEEN = {
    "everybody": np.eye(3),
    "protanopia": np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]),
    "deuteranopia": np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, matrix: np.ndarray) -> np.ndarray:
    """A colour as those eyes see it, in CIELAB."""
    channels = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    x, y, z = (TO_XYZ @ np.clip(matrix @ linear, 0, 1)) / (0.9505, 1.0, 1.089)
    fx, fy, fz = (math.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


@pytest.mark.parametrize("eyes", SEEN)
def test_colours_that_mean_something_stay_apart(eyes: str) -> None:
    """Blue and orange, which tell two things apart, do so for all eyes; so do lines that are chosen one after the other."""
    matrix = SEEN[eyes]

    def apart(one: str, other: str) -> float:
        return float(np.linalg.norm(lab(one, matrix) - lab(other, matrix)))

    assert apart(BLUE, ORANGE) > 50
    neighbours = {pair: apart(*pair) for pair in itertools.pairwise(ACCENTS)}
    assert min(neighbours.values()) > 45, neighbours
