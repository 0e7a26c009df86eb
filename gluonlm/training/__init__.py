"""From a model and a text to a trained run.

In: a Config and a Corpus. Out: a folder with the best model, its log and its result.

``fit`` is the way in; ``loop`` goes over epochs and ``step`` over one segment, ``optim`` turns
gradients into weights; ``run`` is the folder and ``resume`` what lies in it to go on from,
``session`` the devices and workers, ``result`` the end.
"""
