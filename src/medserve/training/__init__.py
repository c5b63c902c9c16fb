"""Step 3: cohort + recipe -> weights + history."""
