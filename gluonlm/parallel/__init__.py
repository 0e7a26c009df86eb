"""Several devices and machines: workers that sum their gradients, and what starts and watches them.

In: gradients of each worker. Out: the same weights on all.

``supervisor`` starts the processes, ``agreement`` compares what they must have alike, ``group``
sums.
"""
