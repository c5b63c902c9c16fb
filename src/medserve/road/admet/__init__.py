"""The ADMET panel: what a molecule is likely to do in a body, by ADMET-AI's shipped models and packages of one's own.

endpoints.py: what is answered, in which unit, within which bounds. shipped.py: ADMET-AI's files, turned into plain
tensors once. approved.py: the approved drugs beside which a value stands. properties.py: what follows from the
structure alone. own.py: packages of this installation. panel.py: one molecule through all of it. run.py: a file, in
parts that survive a stop. results.py, page.py: what is left on disk.
"""
