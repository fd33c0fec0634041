"""Plackett's web application and generation worker."""

__version__ = "0.1.0"
