"""`python -m sparsek.cli` is `sparsek`."""

from . import main

if __name__ == "__main__":
    main()
