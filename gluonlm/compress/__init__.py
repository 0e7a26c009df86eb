"""Smaller models: weights pruned while training, numbers of 8 or 16 bits afterwards.

In: a trained model. Out: the same model with zeros, or with integers and their scales.

``pruning`` by the rules of a ``schedule_file``; ``quantization`` makes the integers of each part,
``calibrate`` measures the ranges of activations, ``compare`` what each way costs and saves.
"""
