"""Step 1: files -> cases -> cohort -> split -> fitted transforms."""
