"""`sparsek fit|validate|test -c config.yaml …`: LightningCLI over class paths; it holds nothing itself."""

from ._cli import SparsekCLI as SparsekCLI
from ._cli import run as run


def main() -> None:
    """Entry point of the `sparsek` command."""
    run()


__all__ = ["SparsekCLI", "main", "run"]
