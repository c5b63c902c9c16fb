"""Step 4: sealed test part -> metrics with intervals, calibration, subgroups, report, card."""
