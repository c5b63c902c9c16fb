"""Molecules: read, standardised, described. RDKit does the chemistry (extra `molecules`).

standard.py: SMILES, InChI or a mol block -> one standard form, or a coded refusal. describe.py: what simple models see
of it. occlude.py: the same with atoms hidden. tokens.py: where the atoms stand in a SMILES. scaffolds.py, families.py:
which molecules are alike, for splits. files.py: SDF, MOL2 and SMILES files as tables.
"""
