"""What is measured of a dictionary: error at k atoms, atoms found, noise removed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from data import noisy, patches, planted
from numpy.typing import NDArray
from rows import WITHOUT_K, learn
from sklearn.feature_extraction.image import extract_patches_2d, reconstruct_from_patches_2d

from sparsek.functional import orthogonal_matching_pursuit, sparse_decode

Array = NDArray[np.float64]
FOUND = 0.99


def error(X: Array, atoms: Array, k: int) -> float:
    """Share of the squared norm of X that k atoms a row, by orthogonal matching pursuit, leave."""
    rows, dictionary = torch.from_numpy(X), torch.from_numpy(atoms)
    left = rows - sparse_decode(*orthogonal_matching_pursuit(rows, dictionary, k), dictionary)
    return float(left.square().sum() / rows.square().sum())


def measure_patches(
    row: str, setting: Mapping[str, Any], described: Mapping[str, Any], seed: int, *, validation: bool
) -> dict[str, float]:
    """Errors at each k, and seconds of processor time of learning. Validation holds out train patches.

    A dictionary is learnt for each k, or one for all where the way to learn does not know k.
    """
    metrics: dict[str, float] = {}
    data = patches(described, seed)
    split = len(data.train) * 4 // 5
    train, test = (data.train[:split], data.train[split:]) if validation else data
    for k in described["k"]:
        if not metrics or row.partition(",")[0] not in WITHOUT_K:
            start = time.process_time()
            atoms = learn(row, train, described["atoms"], k, setting, seed)
            seconds = time.process_time() - start
        metrics[f"patches/seconds, k = {k}"] = seconds
        metrics[f"patches/error, k = {k}"] = error(test, atoms, k)
        metrics[f"patches/train error, k = {k}"] = error(train, atoms, k)
    return metrics


def measure_planted(row: str, setting: Mapping[str, Any], described: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Share of the planted atoms that the dictionary has, |cosine| above 0.99."""
    metrics = {}
    for decibels in described["decibels"]:
        data = planted(described, decibels, seed)
        atoms = learn(row, data.rows, described["atoms"], described["k"], setting, seed)
        metrics[f"planted/found, {decibels} dB"] = float(np.mean(np.abs(data.atoms @ atoms.T).max(1) > FOUND))
    return metrics


def measure_denoising(
    row: str, setting: Mapping[str, Any], described: Mapping[str, Any], seed: int
) -> dict[str, float]:
    """PSNR in dB of the photograph that is put together from coded patches, with a dictionary learnt from noisy ones."""
    clean, image = noisy(described, seed)
    return {
        "denoising/psnr": psnr(clean, denoised(row, setting, described, image, seed)),
        "denoising/noisy psnr": psnr(clean, image),
    }


def denoised(row: str, setting: Mapping[str, Any], described: Mapping[str, Any], image: Array, seed: int) -> Array:
    """Every patch coded until its error is that of the noise; where patches overlap, their mean."""
    size, sigma = described["size"], described["sigma"]
    all_patches = extract_patches_2d(image, (size, size)).reshape(-1, size**2)
    means = all_patches.mean(1, keepdims=True)
    centred = (all_patches - means) / sigma
    chosen = np.random.default_rng(seed).choice(len(centred), described["train"], replace=False)
    atoms = torch.from_numpy(learn(row, centred[chosen], described["atoms"], described["k"], setting, seed))
    rows = torch.from_numpy(centred)
    enough = described["gain"] ** 2 * size**2
    code = orthogonal_matching_pursuit(rows, atoms, size**2 // 2, tolerance=enough)
    coded = sparse_decode(*code, atoms).numpy() * sigma + means
    return reconstruct_from_patches_2d(coded.reshape(-1, size, size), image.shape)


def psnr(clean: Array, image: Array) -> float:
    """10 log₁₀(255² / mean squared error)."""
    return float(10 * np.log10(255**2 / np.square(clean - image).mean()))
