"""What can stop a stage, and how failures of single items are kept until the others are done."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..imaging.errors import InputError


class RunFolderError(RuntimeError):
    """An output folder that cannot be used: taken, locked, full or not writable.

    Attributes:
        remedy: One line that says what to run or change.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True)
class ItemFailure:
    """One item that could not be processed, and why."""

    id: str
    reason: str
    remedy: str


class ItemsFailedError(RuntimeError):
    """Some items failed; the others are done and on disk.

    Attributes:
        failures: Every failed item with its reason, in input order.
        remedy: One line that says what to run or change.
    """

    def __init__(self, failures: Iterable[ItemFailure], total: int) -> None:
        self.failures = tuple(failures)
        named = "; ".join(f"{failure.id}: {failure.reason}" for failure in self.failures)
        super().__init__(f"{len(self.failures)} of {total} items failed: {named}")
        self.remedy = "Correct these items and run the same command with --resume: what is done is kept."


class FailureLog:
    """Collects the items that fail, so that one bad exam does not cost the run.

    Attributes:
        failures: What failed so far, in input order.
        total: Items seen so far, failed or not.
    """

    def __init__(self) -> None:
        self.failures: list[ItemFailure] = []
        self.total = 0
        self._input_only = True

    def add(self, item_id: str, error: Exception) -> None:
        """Notes that an item failed with `error`."""
        remedy = getattr(error, "remedy", "")
        self.failures.append(ItemFailure(item_id, str(error), remedy))
        self._input_only = self._input_only and isinstance(error, InputError)

    def finish(self) -> None:
        """Ends the stage.

        Raises:
            InputError: No item could be processed, and the input is to blame for all of them.
            ItemsFailedError: Some items failed.
        """
        if not self.failures:
            return
        if self._input_only and len(self.failures) == self.total:
            first = self.failures[0]
            if self.total == 1:
                raise InputError(f"{first.id}: {first.reason}", first.remedy)
            raise InputError(
                f"None of the {self.total} items can be used; the first, {first.id}: {first.reason}", first.remedy
            )
        raise ItemsFailedError(self.failures, self.total)
