"""Step 2: architectures, their catalog, and the model package. Importing this folder imports no torch."""
