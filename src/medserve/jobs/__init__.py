"""Long work beside the service: a leased table of jobs, and one process group for each that runs."""
