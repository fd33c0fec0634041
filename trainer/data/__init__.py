"""Reading what people collected."""
