"""Models outside of MXNet: the graph as ONNX, float or integer, and a session that runs it.

In: a trained or quantized model. Out: an ONNX file; logits as from any other model.
"""
