"""A photograph, with noise, and put together from coded patches.

python experiments/05_dictionary_learning/picture.py     # draws denoising.png
"""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from data import noisy
from matplotlib.figure import Figure
from measurement import denoised, psnr

HERE = Path(__file__).parent
ROWS = ("KSVD", "MiniBatchDictionaryLearning")


def main() -> None:
    """Denoise with the first seed and draw."""
    torch.set_num_threads(1)
    grid = yaml.safe_load((HERE / "grid.yaml").read_text())
    seed, described = grid["test"]["seeds"][0], grid["denoising"]
    clean, image = noisy(described, seed)
    images = {"clean": clean, "noisy": image}
    for row in ROWS:
        images[row] = denoised(row, grid["rows"][row]["denoising"][0], described, image, seed)
    figure = Figure(figsize=(3 * len(images), 3.3), layout="constrained")
    for axis, (name, shown) in zip(figure.subplots(1, len(images)), images.items(), strict=True):
        axis.imshow(shown, cmap="gray", vmin=0, vmax=255)
        axis.set_title(name if name == "clean" else f"{name}, {psnr(clean, shown):.2f} dB", fontsize=9)
        axis.axis("off")
    figure.savefig(HERE / "denoising.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
