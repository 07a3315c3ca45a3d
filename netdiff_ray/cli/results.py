"""What verbs return and print alike: exit codes, and words for counts."""

from collections.abc import Mapping

EXIT_OK, EXIT_PARTIAL, EXIT_ERROR = 0, 1, 2
"""Done; done in part, with the reason on standard error; nothing done."""


EXIT_STOPPED, EXIT_TERMINATED = 130, 143
"""Stopped by Ctrl-C; by SIGTERM, which Kubernetes, spot machines and `ray job stop` send."""


def in_tunnels(counts: Mapping[str, int]) -> str:
    """Return the records by the kind of tunnel followed in them, as the end of a result."""
    kinds = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"; tunnels followed: {kinds}" if kinds else ""
