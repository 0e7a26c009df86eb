"""From files to token ids: what a text is, where it comes from, and how it is cut into batches.

In: a data set's name, a folder or a file. Out: a vocabulary and ids (tokens,), columns (L, N), segments (T, N).

- ``corpus.load_corpus`` and ``read_split`` read prepared texts, which ``locate`` finds and ``sources`` downloads.
- ``preparation.prepare`` makes them of raw files (``documents``): sentences, tokens (``tokenizer``, ``subwords``), splits.
- ``batches.batchify`` and ``get_batch`` cut ids for training; ``detokenize`` turns them back into prose.
"""
