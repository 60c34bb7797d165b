"""Benchmarks: phr-refresh beside bare redis-py and beside what people would write or use instead.

`python -m benchmarks` runs them. Contestants do the same work on the same server, run by run in turn; what is reported
is the median of their ratios to the floor, with the quartiles, and never an absolute time alone. See `running` for how
it is timed, `works` for what is timed, `contestants` for by whom.

Programs of their own: `python -m benchmarks.scale`, `...size`, `...login_cost`.
"""
