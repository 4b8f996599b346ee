"""Stage 4: a match becomes a plan, and a plan becomes weights."""
