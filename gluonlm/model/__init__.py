"""The model: word ids (T, N) and a state -> logits (T, N, V) and the next state, its loss, and its
file.

In: ids, a state, targets. Out: logits or losses in nats, a new state; a checkpoint on disk.

``rnn`` is the model, ``qrnn`` and ``transformer`` are layers of their own, ``regularize`` is what
training adds; ``softmax`` and ``adaptive`` are decoders with their loss; ``weights`` names each
matrix, ``checkpoint`` is the file.
"""
