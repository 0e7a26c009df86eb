"""What a trained model is asked for: the next step, text, the probability of a text.

In: a model and ids. Out: logits (T, N, V), sampled ids, nats per token.

``language_model`` is what users hold, ``predictor`` how MXNet computes it; ``sampling`` and
``beam`` write, ``scoring``, ``lines`` and ``neural_cache`` score.
"""
