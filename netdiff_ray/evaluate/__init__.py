"""Whether synthetic traffic is as good as the real thing, and safe to share."""
