"""Models outside of MXNet: the graph as ONNX, float or integer, a session that runs it, a web page.

In: a trained or quantized model. Out: an ONNX file or a page; logits as from any other model.

``builder`` puts nodes together, ``layers``, ``attention`` and ``integer`` know which, ``export``
writes and checks, ``session`` computes, ``load`` opens any model's file, ``web`` is for browsers.
"""
