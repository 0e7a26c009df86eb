"""From a model and a text to a trained run: loop, optimizers, folder, what is shown.

In: a Config and a Corpus. Out: a folder with the best model, its log and its result.
"""
