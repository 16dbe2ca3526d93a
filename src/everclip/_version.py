"""The version: a leaf, so that nobody imports the package for it."""

__version__ = "0.1.0"
