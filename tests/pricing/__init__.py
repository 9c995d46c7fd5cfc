"""Prices, worst cases and actual costs of model calls."""
