"""Step 5: request -> the same transforms -> the same predict -> answer."""
