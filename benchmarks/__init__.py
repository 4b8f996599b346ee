"""Measurements of torchgraft: run, not tested."""
