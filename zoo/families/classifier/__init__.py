"""Classifiers of exams: image in, class out."""

from .network import build, check_grid

__all__ = ["build", "check_grid"]
