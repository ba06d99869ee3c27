"""Errors that a user can act on."""


class InputError(ValueError):
    """Something that the user handed in cannot be used.

    Args:
        message: One sentence that names the thing and the value.
        remedy: One line that says what to run or change.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str]]:
        # The default rebuilds from `args` alone and loses the remedy when a worker process sends the error back.
        return (type(self), (self.message, self.remedy))
