"""Beside the road: who may ask. Knows no model."""
