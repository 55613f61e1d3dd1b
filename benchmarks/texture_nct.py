"""Accuracy of the texture encoder beside HSV histograms on 90 labelled colorectal tiles (9 classes).

Standardisation and logistic regression (C = 1), 20 repeats of stratified 5-fold cross-validation; all feature sets
see the same folds. The interval spans 95 % of the repeats; it says how much the folds matter, not how much other
tiles would. Needs the reference data (MICROTOME_SHARED, by default ../shared).
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from microtome.encoders.registry import load_encoder

_FOLDS = 5
_HUES = 180  # OpenCV's 8-bit hue counts to 180


def main() -> None:
    from harness import SHARED, Options, Report  # here, because tests import this file from elsewhere

    options = Options.parse(__doc__, lambda parser: parser.add_argument("--repeats", type=int, default=20))
    tiles, repeats = SHARED / "data" / "tiles" / "nct_crc_A", 3 if options.quick else options.extra.repeats
    if not tiles.is_dir():
        print(f"reference data is not at {SHARED}: set MICROTOME_SHARED; not measured", file=sys.stderr)
        return
    report = Report("texture_nct", options, about=(__doc__ or "").split("\n\n")[0])
    images, labels = read_tiles(tiles)
    rows = []
    for name, features in feature_sets(images).items():
        scores = repeat_scores(features, labels, repeats=repeats)
        low, high = np.quantile(scores, (0.025, 0.975))
        rows.append([name, features.shape[1], f"{scores.mean():.3f}", f"{low:.3f} to {high:.3f}"])
    title = f"{len(images)} tiles, {len(set(labels))} classes, {repeats} repeats of {_FOLDS} folds"
    report.table(title, ["", "features", "accuracy", "95 % of the repeats"], rows)
    report.write()


def read_tiles(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Tiles as one array, and the names of their folders."""
    paths = sorted(folder.glob("*/*.png"))
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    return images, np.array([path.parent.name for path in paths])


def feature_sets(images: np.ndarray) -> dict[str, np.ndarray]:
    """Both conventional HSV histograms, and the encoder's vectors."""
    return {
        "HSV, 32 bins per channel": np.stack([hsv_marginals(image) for image in images]),
        "HSV, 8 x 8 x 8 bins": np.stack([hsv_joint(image) for image in images]),
        "texture": load_encoder("texture").encode(images),
    }


def hsv_marginals(image: np.ndarray, bins: int = 32) -> np.ndarray:
    """Shares of pixels per bin of hue, of saturation and of value."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    counts = [cv2.calcHist([hsv], [c], None, [bins], [0, top]) for c, top in enumerate((_HUES, 256, 256))]
    return np.concatenate(counts).ravel() / hsv[..., 0].size


def hsv_joint(image: np.ndarray, bins: int = 8) -> np.ndarray:
    """Shares of pixels per cell of a joint histogram."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    counts = cv2.calcHist([hsv], [0, 1, 2], None, [bins] * 3, [0, _HUES, 0, 256, 0, 256])
    return counts.ravel() / hsv[..., 0].size


def repeat_scores(features: np.ndarray, labels: np.ndarray, *, repeats: int, seed: int = 0) -> np.ndarray:
    """Mean accuracy of each repeat."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = RepeatedStratifiedKFold(n_splits=_FOLDS, n_repeats=repeats, random_state=seed)
    scores = cross_val_score(model, features, labels, cv=folds)
    means: np.ndarray = scores.reshape(repeats, _FOLDS).mean(axis=1)
    return means


if __name__ == "__main__":
    main()
