"""Classifiers of exams: image in, class out."""

from .graphs import assemble, graphs, shape_multiple
from .network import build, check_grid

__all__ = ["assemble", "build", "check_grid", "graphs", "shape_multiple"]
