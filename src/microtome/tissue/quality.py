"""Quality of tiles: blur, pen, black and white, from their pixels alone."""

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8
