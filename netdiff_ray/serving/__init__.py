"""The endpoint's HTTP API and its page, without Ray."""
