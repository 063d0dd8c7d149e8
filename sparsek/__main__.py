"""`python -m sparsek` is `sparsek`."""

from sparsek.cli import main

if __name__ == "__main__":
    main()
