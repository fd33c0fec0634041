"""The trainer: from an export to a reward model and a better policy. It never imports the application."""

__version__ = "0.1.0"
