"""Synthetic, labelled, protocol-valid network traffic from diffusion models, on Ray."""

__version__ = "0.1.0"
