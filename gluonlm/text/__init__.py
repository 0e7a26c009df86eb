"""From files to token ids: what a text is, where it comes from, and how it is cut into batches.

In: a data set's name, a folder or a file. Out: a vocabulary and ids (tokens,), columns (L, N), segments (T, N).
"""
