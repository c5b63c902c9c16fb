"""A virtual screen: a library of molecules, ranked by packages and by what is like known actives.

plan.py: what is asked, and what a later run must find the same. worker.py: a process that reads, describes and scores
molecules. run.py: the library through the workers, chunk by chunk, each kept as it comes. ranking.py: ranks of millions
in bounded memory. results.py: Parquet, CSV, SDF; page.py: the page with structures.
"""
