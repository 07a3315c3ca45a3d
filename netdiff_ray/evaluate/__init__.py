"""Fidelity, utility, privacy and compliance of synthetic traffic, beside the real thing."""
