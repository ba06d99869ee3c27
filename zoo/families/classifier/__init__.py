"""Classifiers of exams: image in, class out."""

from .graphs import asked_sizes, assemble, graphs, shape_multiple
from .network import build, check_grid

__all__ = ["asked_sizes", "assemble", "build", "check_grid", "graphs", "shape_multiple"]
