"""MedServe: self-hosted Model-as-a-Service for medicine.

    medserve inspect DATA            step 1, collect and preprocess
    medserve train DATA --out DIR    steps 2 and 3, build and train
    medserve evaluate DIR --data D   step 4, an independent test
    medserve serve --models DIR      step 5, a service on the network

Importing this package touches no file, no network and no logging set-up.
MedServe is software for building and serving models; it makes no claim of clinical validity.
"""

__version__ = "0.1.0"
