"""Collection: the modules of cases have no doctests, and each registers its names once."""

collect_ignore_glob = ["[!t]*.py", "tensors.py"]
