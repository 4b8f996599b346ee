"""The axes sweep: axis groups of every architecture of timm and torchvision and many of transformers, and their proof.

``python -m benchmarks.axes_sweep --output docs/results/axes.md`` goes on where the last call stopped and writes the
page.
"""
