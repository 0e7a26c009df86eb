"""Speed and peak memory of turning a WikiText-103-sized text into ids, against the naive way.

    python benchmarks/tokenization.py                     # the naive way on a tenth of the words
    python benchmarks/tokenization.py --naive-share 1     # needs 8 GB of memory
    python benchmarks/tokenization.py --words 1000000

Writes a text of random words with Zipf's frequencies to a temporary folder, tokenizes it in child
processes, each of which reports its own peak memory, and records the figures in
results/tokenize.json. The naive way is that of many examples: a list of all words as strings, a
counted vocabulary, a list of ids, an array.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from memory_worker import in_new_process, peak_bytes

from gluonlm.cli import run
from gluonlm.system.machine import RESULTS, record
from gluonlm.text.corpus import EOS, UNK, index_words
from gluonlm.text.reader import Span

TYPES = 267_735  # of WikiText-103, like its words, its bytes per word and its words per line
WORDS = 103_227_021
WORDS_PER_LINE = 57
PIECE = 1 << 20  # words written at once


def make_words(random: np.random.Generator) -> list[bytes]:
    """Different words by falling frequency, the frequent ones short; about 5.2 bytes with the blank
    after them."""
    letters = "etaoinsrhldcumfpgwybvkxjqz"
    words, seen = [UNK.encode()], set()
    for rank in range(1, TYPES):
        length = 1 + int(np.log2(rank + 1) * 0.40)
        word = "".join(letters[i] for i in random.integers(0, 26, length))
        while word in seen:
            word += letters[random.integers(0, 26)]
        seen.add(word)
        words.append(word.encode())
    return words


def synthesize(paths: dict[Path, int], seed: int) -> None:
    """Write the same text to files of so many words each: the shorter ones are the beginning of the
    longest."""
    random = np.random.default_rng(seed)
    words = np.array(make_words(random), dtype=object)
    cumulated = np.cumsum(1 / np.arange(1, TYPES + 1))
    cumulated /= cumulated[-1]
    files = {path: path.open("wb") for path in paths}
    for start in range(0, max(paths.values()), PIECE):
        drawn = words[np.searchsorted(cumulated, random.random(PIECE))]
        drawn[random.random(PIECE) < 1 / WORDS_PER_LINE] = b"\n"
        for path, file in files.items():
            file.write(b" ".join(drawn[: max(0, paths[path] - start)].tolist()) + b" ")
    for file in files.values():
        file.close()


def naive(path: Path) -> tuple[list[str], np.ndarray]:
    """Vocabulary and ids with every word of the text in a list."""
    with path.open(encoding="utf-8") as file:
        words = [word for line in file for word in [*line.split(), EOS]]
    counts = Counter(words)
    vocabulary = sorted(counts, key=lambda word: (-counts[word], word))
    index = {word: i for i, word in enumerate(vocabulary)}
    return vocabulary, np.array([index[word] for word in words], np.int32)


def streaming(path: Path) -> tuple[list[str], np.ndarray]:
    """Vocabulary and ids as gluonlm reads them."""
    dictionary, ids = index_words(Span(path))
    return dictionary.idx2word, ids


def measure(way: str, path: Path) -> dict:
    """Tokenize; its figures, with a checksum of the result."""
    began_at = peak_bytes()
    began, processor_began = time.perf_counter(), time.process_time()
    vocabulary, ids = {"naive": naive, "streaming": streaming}[way](path)
    seconds, processor_seconds = time.perf_counter() - began, time.process_time() - processor_began
    return {
        "way": way,
        "bytes": path.stat().st_size,
        "tokens": len(ids),
        "types": len(vocabulary),
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor_seconds, 2),  # comparable also on a busy machine
        "million_tokens_per_processor_second": round(len(ids) / processor_seconds / 1e6, 2),
        "peak_mib": round(peak_bytes() / 2**20),
        "peak_mib_before": round(began_at / 2**20),  # the interpreter and its libraries
        "sha256_of_ids": hashlib.sha256(ids).hexdigest(),
    }


def main(argv: list[str]) -> dict:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--words", type=int, default=WORDS, help="words of the text (default: as WikiText-103)"
    )
    parser.add_argument(
        "--naive-share", type=float, default=0.1, help="part of the text for the naive way"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "tokenize.json", help="file to record the figures in"
    )
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        whole, share = Path(folder, "whole.txt"), Path(folder, "share.txt")
        sizes = {share: round(options.words * options.naive_share), whole: options.words}
        synthesize(sizes, options.seed)
        runs = [in_new_process(measure, *one) for one in (("naive", share), ("streaming", share))]
        if options.naive_share < 1:
            runs.append(in_new_process(measure, "streaming", whole))
    if runs[0]["sha256_of_ids"] != runs[1]["sha256_of_ids"]:
        raise SystemExit("the two ways do not agree")
    command = ["python", "benchmarks/tokenization.py", *argv]
    result = record(options.out, command, seed=options.seed, runs=runs)
    print(json.dumps(result, indent=2))
    return result


if __name__ == "__main__":
    run(main)
