"""What benchmarks/generate.py measures against: the word-level example of PyTorch writing words.
Needs only torch.

For each line on stdin, a number of words, it writes that many and answers with the seconds it took
by the clock and of processor time, as the example's
generate.py does it: ``model(input, hidden)``, ``output.squeeze().div(temperature).exp().cpu()``,
``multinomial``.
"""

import io
import sys
import time

import torch
from torch import nn

VOCABULARY, UNITS, LAYERS = (int(argument) for argument in sys.argv[1:4])


class RNNModel(nn.Module):
    """The example's LSTM model."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(VOCABULARY, UNITS)
        self.rnn = nn.LSTM(UNITS, UNITS, LAYERS, dropout=0.2)
        self.decoder = nn.Linear(UNITS, VOCABULARY)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)

    def forward(self, inputs, hidden):
        output, hidden = self.rnn(self.drop(self.encoder(inputs)), hidden)
        decoded = self.decoder(self.drop(output)).view(-1, VOCABULARY)
        return nn.functional.log_softmax(decoded, dim=1), hidden


def write(model: nn.Module, words: list[str], count: int) -> None:
    """The loop of the example's generate.py."""
    hidden = torch.zeros(LAYERS, 1, UNITS), torch.zeros(LAYERS, 1, UNITS)
    inputs, file = torch.randint(VOCABULARY, (1, 1)), io.StringIO()
    with torch.no_grad():
        for i in range(count):
            output, hidden = model(inputs, hidden)
            word_weights = output.squeeze().div(1.0).exp().cpu()
            word_index = torch.multinomial(word_weights, 1)[0]
            inputs.fill_(word_index)
            file.write(words[word_index] + ("\n" if i % 20 == 19 else " "))


torch.manual_seed(1111)
model, words = RNNModel().eval(), [f"w{index}" for index in range(VOCABULARY)]
print(f"{torch.__version__} {torch.get_num_threads()}", flush=True)
for line in sys.stdin:
    start, started = time.perf_counter(), time.process_time()
    write(model, words, int(line))
    print(time.perf_counter() - start, time.process_time() - started, flush=True)
