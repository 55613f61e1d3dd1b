"""Features of the tiles of a plan as a plain PyTorch script makes them: OpenSlide, PIL, ToTensor, DataLoader, fp32."""

import json
import sys
from pathlib import Path

import openslide
import timm
import torch
from measure import report, timed
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Tiles(Dataset):
    """One tile per box."""

    def __init__(self, slide: str, boxes: list[list[int]], out_px: int) -> None:
        self.path, self.boxes, self.out_px = slide, boxes, out_px
        self.slide = None
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)])

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, row: int) -> torch.Tensor:
        if self.slide is None:  # each worker opens its own
            self.slide = openslide.OpenSlide(self.path)
        x, y, w, h = self.boxes[row]
        tile = self.slide.read_region((x, y), 0, (w, h)).convert("RGB")
        return self.transform(tile.resize((self.out_px, self.out_px), Image.Resampling.BILINEAR))


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    network = timm.create_model(plan["encoder"].removeprefix("timm:"), pretrained=False, num_classes=0).eval()
    boxes = plan["boxes"] * plan["copies"]
    with torch.inference_mode():
        network(torch.zeros(plan["batch_size"], 3, plan["out_px"], plan["out_px"]))
        n, cpu_s, wall_s = timed(extract, network, plan, boxes)
    report(n, cpu_s, wall_s, runtime=f"torch {torch.__version__} fp32")


def extract(network: torch.nn.Module, plan: dict, boxes: list[list[int]]) -> int:
    """All features; the workers have ended when it returns, so that their CPU time counts."""
    loader = DataLoader(Tiles(plan["slide"], boxes, plan["out_px"]), plan["batch_size"], num_workers=2)
    features = torch.cat([network(batch) for batch in loader])
    if not torch.isfinite(features).all():
        raise RuntimeError("features are not finite")
    return len(features)


if __name__ == "__main__":
    main()
