"""Exact growth: does a larger target compute the source's function, and if not, why not.

``python -m benchmarks.growth --output docs/results/growth.md`` with random weights, for many pairs of networks;
``python -m benchmarks.growth.real --output docs/results/real-growth.md`` with trained networks, in accuracy.
"""
