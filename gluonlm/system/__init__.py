"""The ground below: how fast MXNet runs here, which GPUs there are, files, errors, records of
measurements.

In: the machine. Out: a process that is set up; files written whole; one sentence where something is
wrong.
"""
