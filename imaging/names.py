"""Names of exams and of their channels, as they stand in files."""

import json
import os
import sys
from collections.abc import Mapping, Sequence

from .errors import InputError

# What public data sets call a channel, beside its own name: Prostate158 says t2 and dwi.
CHANNEL_ALIASES: Mapping[str, tuple[str, ...]] = {
    "t2w": ("t2",),
    "hbv": ("dwi", "highb"),
    "adc": (),
}
# Leaves room for a channel, an ending and a temporary name within the usual limit of 255 bytes.
MAX_ID_BYTES = 200


def _has_file_name(identifier: str) -> bool:
    try:
        os.fsencode(identifier)
    except UnicodeEncodeError:
        return False
    return True


def check_id(identifier: str, origin: str) -> str:
    """Refuses an id that is not safe as the name of a file and a folder.

    Args:
        identifier: The id.
        origin: For the message: where the id came from.

    Returns:
        The id, unchanged.

    Raises:
        InputError: The id is empty or too long, starts with a dot, has blanks at an end, or holds a path separator,
            `..`, a control character or one that file names cannot hold in the present locale.
    """
    size = len(identifier.encode(errors="replace"))
    reason = None
    if not identifier:
        reason = "is empty"
    elif size > MAX_ID_BYTES:
        reason = f"takes {size} bytes, more than {MAX_ID_BYTES}"
        identifier = identifier[:40] + "..."
    elif any(separator in identifier for separator in "/\\"):
        reason = "holds a path separator"
    elif ".." in identifier:
        reason = "holds '..'"
    elif not identifier.isprintable():
        reason = "holds a control character"
    elif identifier.startswith("."):
        reason = "starts with a dot"
    elif identifier != identifier.strip():
        reason = "starts or ends with a blank"
    elif not _has_file_name(identifier):
        reason = f"holds letters that file names cannot hold here (encoding {sys.getfilesystemencoding()})"
    if reason:
        raise InputError(
            f"The id {identifier!r} from {origin} {reason}, so it cannot name a file.",
            "Use letters, digits, '-' and '_'; letters beyond A to Z need a locale such as LC_ALL=C.UTF-8.",
        )
    return identifier


def check_storable(value: object, origin: str) -> None:
    """Refuses what JSON can carry in but not out: NaN, infinity and halves of characters (lone surrogates)."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        reason = "half a character" if isinstance(error, UnicodeError) else "a number that is not finite"
        raise InputError(f"{origin} holds {reason}.", "Correct or leave out the value.") from error


def channel_names(channel: str) -> tuple[str, ...]:
    """All names under which a channel is found: its own, then its aliases."""
    return (channel, *CHANNEL_ALIASES.get(channel, ()))


def match_channel(stem: str, channels: Sequence[str]) -> tuple[str, str] | None:
    """Reads a file name without its ending as an exam id and a channel.

    Args:
        stem: `<id>_<channel>` or `<channel>`; upper and lower case are the same in the channel.
        channels: The channels to look for.

    Returns:
        Id (empty where the stem is the channel alone) and channel, or None where no channel fits.
    """
    lower = stem.lower()
    for channel in channels:
        for name in channel_names(channel):
            if lower == name.lower():
                return "", channel
            if lower.endswith("_" + name.lower()) and len(stem) > len(name) + 1:
                return stem[: -len(name) - 1], channel
    return None
