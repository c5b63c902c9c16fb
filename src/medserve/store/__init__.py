"""Where things live: the database and whole files."""
