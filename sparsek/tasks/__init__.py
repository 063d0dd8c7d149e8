"""Lightning modules: what is trained, on which objective."""

from ._language_model import LanguageModelTask as LanguageModelTask

__all__ = ["LanguageModelTask"]
