"""Feature extractors: fixed networks and filters whose outputs images are compared by."""

from .card import ExtractorCard, find_extractor, list_extractors
from .loading import DEFAULT_EXTRACTOR, Extractor, load_extractor

__all__ = ["DEFAULT_EXTRACTOR", "Extractor", "ExtractorCard", "find_extractor", "list_extractors", "load_extractor"]
