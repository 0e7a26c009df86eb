"""From files to token ids (tokens,), and to batches of them (T, N).

- ``corpus`` reads prepared texts, which ``locate`` finds and ``sources`` downloads.
- ``preparation`` makes them of raw ``documents``: sentences, tokens, three ``splits``.
- ``batches`` cuts ids for training; ``detokenize`` turns them back into prose.
"""
