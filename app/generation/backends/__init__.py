"""The ways a policy can be asked to speak."""
