"""The lab's error."""


class LabError(RuntimeError):
    """The lab cannot do what was asked; the message says why and what to do about it."""


class UsageError(LabError):
    """An argument is none that any lab can have."""
