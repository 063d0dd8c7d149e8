"""`sparsek fit|validate|test -c config.yaml …`: LightningCLI over class paths; it holds nothing itself.

Configuration files add up from left to right: a model and its data (`configs/moe/text.yaml`), then overlays of what differs
(`configs/selector/…yaml` for the router, `configs/logger/wandb.yaml` for the logger), then single values on the command line.
:func:`run` does the same in this process. Needs the extra `train`.

Files may name classes of known packages alone (:data:`ALLOWED`). The same `fit` command goes on with a run that was killed.

What is no training is a command of its own (:data:`COMMANDS`), read when it is called.
"""

import errno
import sys
from importlib import import_module

from sparsek.callbacks import CheckpointError, NonFiniteError

from ._allowed import ALLOWED as ALLOWED
from ._cli import SparsekCLI as SparsekCLI
from ._cli import run as run

COMMANDS: dict[str, str] = {
    "activations": "sparsek.cli._activations",
    "lab": "sparsek.lab",
    "report": "sparsek.cli._report",
    "sweep": "sparsek.cli._sweep",
}
"""A word and the module whose `main(arguments)` it calls."""


def main() -> None:
    """Entry point of the `sparsek` command."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word in COMMANDS:
        import_module(COMMANDS[word]).main(sys.argv[2:])
    else:
        _run_or_say()


def _run_or_say() -> None:
    """Run; what a user can do something about is one line and status 1."""
    try:
        run()
    except (CheckpointError, NonFiniteError) as error:
        sys.exit(f"sparsek: error: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        sys.exit(f"sparsek: error: {error}")


__all__ = ["ALLOWED", "COMMANDS", "SparsekCLI", "main", "run"]
