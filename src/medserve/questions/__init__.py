"""What is asked and what an answer means: recipes, metrics, answers."""
