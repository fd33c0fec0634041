"""Learning from a policy's own samples."""
