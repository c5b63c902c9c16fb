"""Beside the road: a prediction -> its evidence and the check of that evidence."""
