"""From a model and a text to a trained run: the loop, the optimizers, the run's folder, what is shown meanwhile.

In: a Config and a Corpus. Out: a folder with the best model, its log and its result.
"""
