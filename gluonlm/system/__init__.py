"""The ground below: how fast MXNet runs here, which GPUs there are, files, errors.

In: the machine. Out: a process that is set up; files written whole; one sentence where something is
wrong.

``runtime`` prepares MXNet with ``blas`` and ``memory``, ``threads`` follow the load, ``gpu`` asks
the driver; ``machine`` is what a record says of it; ``files`` and ``errors`` are for all.
"""
