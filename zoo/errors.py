"""What can go wrong with a model: each error carries the sentence and the remedy."""


class ZooError(Exception):
    """Base of the zoo's errors.

    Attributes:
        remedy: One line that says what to run or change.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class CardError(ZooError, ValueError):
    """A card cannot be read; the message names the file, the key and the value."""


class UnknownModelError(ZooError, ValueError):
    """A model name that means nothing here, or two things at once."""


class WeightsMissingError(ZooError, RuntimeError):
    """Weights that are not on this machine."""


class OfflineError(WeightsMissingError):
    """The Hub cannot be reached, does not answer as it should, or must not be asked."""


class AccessError(ZooError, RuntimeError):
    """Weights that need a licence to be accepted, or an account."""


class DigestMismatchError(ZooError, RuntimeError):
    """A file whose content is not what its card pins."""
