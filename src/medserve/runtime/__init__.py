"""A model package -> the fastest faithful executable; no training framework is imported here."""
