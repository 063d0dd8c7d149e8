"""sparsek: pick k of n as softmax picks one. Scores → sigmoid top-k → πps sample → gradient."""

from ._version import __version__ as __version__

__all__ = ["__version__"]
