"""A dictionary learned by gradient: an autoencoder whose codes are selected by sigmoid top-k or by k-hot samples."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import validate_data
from torch import Tensor

from sparsek.datamodules import RowBatches
from sparsek.functional import orthogonal_matching_pursuit, sparse_decode
from sparsek.nn import LatentSelection, RelaxedTopK, SparseAutoencoder
from sparsek.tasks import SparseAutoencoderTask, SquaredError

from ._atoms import first_atoms
from ._ksvd import KSVD, _check_varying
from ._training import _one_thread, _quiet


class LearnedDictionary(KSVD):
    r"""Learn a dictionary by gradient: the decoder of a sparse autoencoder with k latents a row.

    An encoder gives every atom a score, sigmoid top-k selects k atoms (hard forward, the gradient of the relaxation backward, so
    that atoms which were not selected learn too), and decoder and encoder are trained together by
    :class:`~sparsek.tasks.SparseAutoencoderTask`, so by Lightning, from rows of X as first atoms. With
    `selection=SampledTopK(k)` codes are k-hot samples while training. What was learned is used as :class:`KSVD`'s dictionary is:
    :meth:`transform` codes by orthogonal matching pursuit, with signs.

    Where rows come faster than matching pursuit can code them, or one encoder pass must do, train this; for the least error on rows
    that fit into memory, :class:`KSVD`. The same `random_state` gives the same result, and no global generator is touched.

    Args:
        n_atoms: Number of atoms; None = number of columns.
        k: Number of atoms of a row; None = a tenth of the columns, 1 at least.
        selection: How latents are selected while training; None = :class:`~sparsek.nn.RelaxedTopK` of k.
        max_steps: Optimizer steps.
        batch_size: Rows of a step.
        learning_rate: Of Adam, falling to 0 at the end.
        random_state: Seed, generator, or None for the global one of numpy.

    Attributes:
        components_: (n_atoms, columns): the dictionary, atoms of norm 1.
        autoencoder_: The trained :class:`~sparsek.nn.SparseAutoencoder`, in the units of X: its `encode` is one matrix product.
        error_: Share of the squared norm of X that is left, coded by orthogonal matching pursuit.
        n_iter_: Number of steps.
        n_features_in_: Number of columns.
        feature_names_in_: Names of the columns, where `fit` was given any.

    Raises:
        ValueError: As scikit-learn does; if k is larger than the number of atoms; and if all rows are equal.

    Example:
        >>> import numpy as np
        >>> from sparsek.integrations.sklearn import LearnedDictionary
        >>> rng = np.random.default_rng(0)
        >>> X = (np.eye(4)[rng.integers(0, 4, 200)] * rng.uniform(1, 2, (200, 1))) @ rng.standard_normal((4, 6))
        >>> dictionary = LearnedDictionary(n_atoms=4, k=1, max_steps=100, random_state=1).fit(X)
        >>> dictionary.components_.shape, dictionary.transform(X).shape
        ((4, 6), (200, 4))

    References:
        Makhzani, Frey (2013), "k-sparse autoencoders", https://arxiv.org/abs/1312.5663.
        Wijk, Vinuesa, Azizpour (2025), "Differentiable Top-k: From One-Hot to k-Hot", https://openreview.net/forum?id=VMlajIH1oF.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_atoms": [Interval(Integral, 1, None, closed="left"), None],
        "k": [Interval(Integral, 1, None, closed="left"), None],
        "selection": [LatentSelection, None],
        "max_steps": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_atoms: int | None = None,
        k: int | None = None,
        *,
        selection: LatentSelection | None = None,
        max_steps: int = 2000,
        batch_size: int = 256,
        learning_rate: float = 3e-3,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_atoms = n_atoms
        self.k = k
        self.selection = selection
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: None = None) -> Self:
        """Learn the dictionary of the rows of X (rows, columns). y is not used."""
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        _check_varying(X)
        n_atoms = X.shape[1] if self.n_atoms is None else int(self.n_atoms)
        k = self._k(X.shape[1], n_atoms)
        exponent = int(np.frexp(np.abs(X).max())[1])
        rows = torch.from_numpy(np.ldexp(X, -exponent))  # near 1, so that no square overflows or vanishes
        task = self._trained(rows.float(), n_atoms, k, check_random_state(self.random_state).randint(2**31))
        self.autoencoder_ = _in_units_of(exponent, task.exported())
        atoms = F.normalize(self.autoencoder_.decoder_weight.detach().to(rows.dtype), dim=-1)
        left = rows - sparse_decode(*orthogonal_matching_pursuit(rows, atoms, k), atoms)
        total = float(rows.double().square().sum())
        self.components_ = atoms.numpy()
        self.error_ = float(left.double().square().sum()) / total if total else 0.0
        self.n_iter_ = int(self.max_steps)
        return self

    def _trained(self, rows: Tensor, n_atoms: int, k: int, seed: int) -> SparseAutoencoderTask:
        selection = RelaxedTopK(k) if self.selection is None else self.selection
        with isolate_rng(), _quiet(), _one_thread():
            torch.manual_seed(seed)
            autoencoder = SparseAutoencoder(rows.shape[1], n_atoms, selection)
            atoms = first_atoms(rows, n_atoms, torch.Generator().manual_seed(seed))
            with torch.no_grad():
                autoencoder.encoder_weight.mul_(0).add_(atoms)
                autoencoder.decoder_weight.copy_(atoms)
            task = SparseAutoencoderTask(
                autoencoder,
                auxiliary=None,
                centre=False,
                learning_rate=self.learning_rate,
                loss=SquaredError(),
                levels=(k,),
                seed=seed,
            )
            self._trainer().fit(task, RowBatches((rows, rows), self.batch_size, seed, self.max_steps))
        return task.cpu().eval()

    def _trainer(self) -> Trainer:
        return Trainer(
            max_steps=self.max_steps,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )


@torch.no_grad()
def _in_units_of(exponent: int, autoencoder: SparseAutoencoder) -> SparseAutoencoder:
    """The autoencoder of rows that are 2 to the exponent times as large: its latents are, too."""
    for bias in (autoencoder.encoder_bias, autoencoder.decoder_bias):
        bias.mul_(2.0**exponent)
    return autoencoder
