"""Molecules: read, standardised, described. RDKit does the chemistry (extra `molecules`).

standard.py: SMILES, InChI or a mol block -> one standard form, or a coded refusal. describe.py: what simple models see of
it, numbers and names. tokens.py: a SMILES as the words of a network. scaffolds.py: which molecules are of one family, for
splits. files.py: SDF, MOL2 and SMILES files as tables.
"""
