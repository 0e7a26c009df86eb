"""Models outside of MXNet: the graph as ONNX, float or integer, and a session that runs it.

In: a trained or quantized model. Out: an ONNX file; logits as from any other model. ``builder``
puts nodes together, ``layers`` and ``integer`` know which, ``export`` writes and checks,
``session`` computes, and ``load`` opens any file of a model with what is to compute it.
"""
