"""The checker of `netdiff check`, which shares no code with what it judges."""
