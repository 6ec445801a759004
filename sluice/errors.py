"""The error tree. Each class names the reaction it asks for."""

from __future__ import annotations

__all__ = ["ConfigError", "Conflict", "Fenced", "InvalidEvent", "LogTruncated", "ModelUnusable", "SluiceError"]
__all__ += ["TransportError"]


class SluiceError(Exception):
    """Base of every error Sluice raises on purpose. Its text is one line a person can act on."""


class ConfigError(SluiceError):
    """Wrong use or wrong configuration: print the line, exit 2."""


class Conflict(ConfigError):
    """What was to be changed is not as it was thought to be: look again, and repeat if it is still wanted."""


class InvalidEvent(SluiceError):
    """A record that is not a well-formed event: dead letter, count it, go on."""


class TransportError(SluiceError):
    """A broker or Redis that is away: retry with backoff; at start-up give up after the deadline."""


class Fenced(SluiceError):
    """Another worker has moved this partition on: drop all memory of it, rebuild or let it go."""


class LogTruncated(SluiceError):
    """The log no longer reaches back to where an exact count must start: say so, never guess."""


class ModelUnusable(SluiceError):
    """A model that cannot be found, read or served: the one in force goes on serving."""
