"""Models and how they are trained, whatever they learn."""
