"""Collection: the modules of Triton kernels have no doctest, and import a package that need not be there."""

collect_ignore_glob = ["sparsek/kernels/triton/*"]
