"""ccella: labelled synthetic medical images from models that labs train themselves."""

__version__ = "0.1.0"
