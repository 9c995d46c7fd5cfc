"""Decides: policy, canonical action and facts in, verdict out. Pure and total."""
