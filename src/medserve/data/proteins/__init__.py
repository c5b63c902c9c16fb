"""Proteins: sequences of amino acids, read and checked.

sequence.py: plain letters or FASTA -> the sequence in capitals, or a coded refusal.
"""
