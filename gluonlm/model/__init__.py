"""The model: word ids (T, N) and a state -> logits (T, N, V) and the next state, its loss, and its file.

In: ids, a state, targets. Out: logits or losses in nats, a new state; a checkpoint on disk.
"""
