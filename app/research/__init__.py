"""The researchers' face: every page under /research. Built as `app.admin` is."""
