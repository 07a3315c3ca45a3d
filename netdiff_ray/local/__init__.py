"""Verbs that run in this process, without Ray: convert, inspect, info and repair."""
