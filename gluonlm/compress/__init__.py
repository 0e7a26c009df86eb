"""Smaller models: weights pruned while training, numbers of 8 or 16 bits afterwards.

In: a trained model. Out: the same model with zeros, or with integers and their scales.
"""
