"""What a judge of policies is called: what a reward model says of whoever climbed it is no evidence."""

CLIMBED = "the reward model that was climbed"
HELD_OUT = "a held-out reward model"
