"""Growing, closing and cleaning of masks with round neighbourhoods; lengths in pixels of the mask."""

import cv2
import numpy as np
from jaxtyping import Bool


def grown(mask: Bool[np.ndarray, "h w"], radius: float) -> Bool[np.ndarray, "h w"]:
    """Every pixel within ``radius`` of the mask; less than 1 px changes nothing."""
    if radius < 1 or not mask.any():
        return mask
    # by distance: the cost does not depend on the radius
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5) <= radius)


def opened(mask: Bool[np.ndarray, "h w"], radius: float) -> Bool[np.ndarray, "h w"]:
    """The mask without what is thinner than twice the radius; the image's border does not make it thin."""
    if radius < 1 or not mask.any():
        return mask
    inside = ~grown(~mask, radius)
    return np.asarray(grown(inside, radius) & mask)


def closed(mask: Bool[np.ndarray, "h w"], radius: float) -> Bool[np.ndarray, "h w"]:
    """The mask with gaps narrower than twice the radius closed; beyond the border the image is mirrored."""
    if radius < 1 or not mask.any():
        return mask
    around = min(int(radius) * 2 + 2, min(mask.shape) - 1)
    wide = np.pad(mask, around, mode="reflect")
    filled = ~grown(~grown(wide, radius), radius)
    return np.asarray((filled | wide)[around : wide.shape[0] - around, around : wide.shape[1] - around])


def reached(weak: Bool[np.ndarray, "h w"], strong: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The 8-connected pieces of ``weak`` that hold a pixel of ``strong``."""
    count, pieces = cv2.connectedComponents(weak.astype(np.uint8), connectivity=8)
    keep = np.zeros(count, bool)
    keep[pieces[strong & weak]] = True
    keep[0] = False
    return np.asarray(keep[pieces])


def without_small(mask: Bool[np.ndarray, "h w"], area: float) -> Bool[np.ndarray, "h w"]:
    """The 8-connected pieces of at least ``area`` pixels."""
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False
    return np.asarray(keep[pieces])


def without_small_holes(mask: Bool[np.ndarray, "h w"], area: float) -> Bool[np.ndarray, "h w"]:
    """The mask with every hole of less than ``area`` pixels filled; a gap at the image's border is no hole."""
    _, gaps, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    fill = stats[:, cv2.CC_STAT_AREA] < area
    fill[0] = False
    border = np.unique(np.concatenate([gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]]))
    fill[border] = False
    return np.asarray(mask | fill[gaps])
