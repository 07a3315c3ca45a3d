"""Captures to an encoded dataset."""
