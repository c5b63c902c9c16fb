"""The hospital's languages, in and out."""
