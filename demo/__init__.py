"""The demo's own model: a small story-teller, and the stories that it learns from."""
