"""The error tree: every error a user can cause is a `LlavaMiniError` whose text is one line.

A message says what was wrong, the value, and what would be right.
"""


class LlavaMiniError(Exception):
    """Base of all errors that are meant to be read by a user; the command line prints it and exits with 1."""


class ConfigError(LlavaMiniError, ValueError):
    """A configuration contradicts itself or names something unknown."""


class InputError(LlavaMiniError, ValueError):
    """A question, a conversation or a tensor that the model cannot take."""


class MediaError(LlavaMiniError, ValueError):
    """A picture or video file that is missing, broken, too large or of another kind."""


class ModelError(LlavaMiniError):
    """A model folder, adapter or package that is missing or does not fit."""


class EngineError(LlavaMiniError):
    """A server that runs the language model cannot be reached, refuses, or runs another one."""


class DataError(LlavaMiniError):
    """Training or evaluation data that is missing or malformed."""


class TrainingError(LlavaMiniError):
    """A training that had to stop: a checkpoint that could not be written, a signal, a missing package."""


class JudgeError(LlavaMiniError):
    """A judge of open answers that cannot be reached, or refuses."""
