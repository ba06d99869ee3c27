"""A small phrase grammar: `[this|that|]` picks one alternative at random, `{name}` inserts a value."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SPACES = re.compile(r" {2,}")
_VOWEL_SOUND = re.compile(r"\b([Aa]) (?=[aeio]|8\d?\b|1[18]\b(?!\.))")
_SPACE_BEFORE_MARK = re.compile(r" +([,.;:])")


def expand(template: str, rng: np.random.Generator, **slots: str | int | float) -> str:
    """Expand a template to one phrase.

    Choices may be nested and are resolved innermost first; an empty alternative leaves the phrase out.

    Args:
        template: Text with `[a|b]` choices and `{slot}` values; a value may not hold brackets of its own.
        rng: Source of the choices.
        **slots: Values to insert.

    Returns:
        The phrase, with single spaces, none before a mark, and `a` made `an` before a vowel sound.

    Raises:
        KeyError: The template names a slot that is not given.
    """
    text = template
    while match := _CHOICE.search(text):
        options = match[1].split("|")
        text = text[: match.start()] + options[int(rng.integers(len(options)))] + text[match.end() :]
    text = _SPACES.sub(" ", text.format_map(slots))
    text = _VOWEL_SOUND.sub(r"\1n ", text)
    return _SPACE_BEFORE_MARK.sub(r"\1", text).strip()


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Return one of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def sentence(text: str) -> str:
    """Return the text with a capital first letter and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def say(templates: Sequence[str], rng: np.random.Generator, **slots: str | int | float) -> str:
    """Expand one of the templates to a sentence; several sentences in one template keep their own stops."""
    return sentence(expand(pick(rng, templates), rng, **slots))
