"""`sparsek fit|validate|test -c config.yaml …`: LightningCLI over class paths; it holds nothing itself.

Configuration files add up from left to right: a model and its data (`configs/moe/text.yaml`), then overlays of what differs
(`configs/selector/…yaml` for the router, `configs/logger/wandb.yaml` for the logger), then single values on the command line.
:func:`run` does the same in this process. Needs the extra `train`.
"""

from ._cli import SparsekCLI as SparsekCLI
from ._cli import run as run


def main() -> None:
    """Entry point of the `sparsek` command."""
    run()


__all__ = ["SparsekCLI", "main", "run"]
