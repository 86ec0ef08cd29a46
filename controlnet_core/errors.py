"""The errors of this package: each says what was found, what was expected and what to do."""

from __future__ import annotations

UNREADABLE = (ValueError, RecursionError)
"""What a parser of JSON or TOML raises: also for numbers of thousands of digits, and for brackets without end."""
LINE = 120
"""The characters of a line that is shown whole everywhere."""
LEAST_FOUND = 12
"""Those of a headline that what to do leaves for what was found."""


class ControlNetCoreError(Exception):
    """An input that cannot be used, explained to the person who gave it.

    Arguments:
        found: What was found, naming the file, key or argument.
        expected: What would have been right.
        do: What to do about it.
    """

    def __init__(self, found: str, expected: str, do: str) -> None:
        super().__init__(f"found {found}; expected {expected}; {do}")
        self.found = found
        self.expected = expected
        self.do = do

    @property
    def headline(self) -> str:
        """What was found, shortened if need be, and what to do, in one line of at most 120 characters."""
        end = _shortened(f": {self.do}", LINE - LEAST_FOUND)
        return _shortened(self.found, LINE - len(end)) + end

    @property
    def details(self) -> str:
        """What was expected; with all that was found and what to do, if the headline has no room for them."""
        expected = f"Expected: {self.expected}."
        whole = self.headline == f"{self.found}: {self.do}"
        return expected if whole else f"Found: {self.found}. {expected} What to do: {self.do}."

    def __reduce__(self) -> tuple[type[ControlNetCoreError], tuple[str, str, str]]:
        """Pickle the error as its three parts, so that it can pass between processes."""
        return type(self), (self.found, self.expected, self.do)


def _shortened(text: str, length: int) -> str:
    """A text in one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1].rstrip()}…"


class TensorShapeError(ControlNetCoreError):
    """A tensor of the wrong shape, given to a public function."""


class ResidualShapeError(TensorShapeError):
    """Residuals that do not fit each other, or do not fit the UNet they are added to."""


class HintError(ControlNetCoreError):
    """A hint image that cannot steer anything: broken file, wrong range, wrong channels."""


class SettingError(ControlNetCoreError):
    """A setting with an unknown name or an impossible value."""


class FamilyMismatchError(ControlNetCoreError):
    """A net of one model family applied to a base of another."""


class CheckpointError(ControlNetCoreError):
    """A weights file that is missing, broken, unsafe or of another kind than expected."""


class TokenizerError(ControlNetCoreError):
    """A tokenizer's files that are missing or of another family than expected."""


class DatasetError(ControlNetCoreError):
    """Training data that is missing, unpaired or broken."""


class WriteError(ControlNetCoreError):
    """A file or folder that cannot be written; what was there before is not lost."""


class RunFolderError(ControlNetCoreError):
    """A run folder that cannot be read or continued."""


class TrainingError(ControlNetCoreError):
    """Training that cannot continue, such as a loss that is not finite."""
