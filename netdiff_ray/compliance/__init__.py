"""The rules of `netdiff check`, which share no code with what they judge."""
