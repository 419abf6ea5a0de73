"""Many heads with one bundle: a folder, a CSV table or a BIDS data set in, a BIDS derivatives data set out.

`find` finds the heads, `run` segments them, and `segkit segment --cohort` is both.
"""
