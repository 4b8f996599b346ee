"""The zoo sweep: torchgraft's laws on every architecture of timm and torchvision, and on many of transformers.

``python -m benchmarks.zoo --output docs/results/zoo.md`` runs it and writes the page.
"""
