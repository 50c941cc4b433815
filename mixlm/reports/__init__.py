"""Metrics, curves and units."""
