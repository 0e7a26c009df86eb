"""Seconds and peak memory of `python -m gluonlm.prepare` on a large text.

    python benchmarks/preparing.py                  # 5 and 500 MB, nine minutes: preparing.json
    python benchmarks/preparing.py --megabytes 2 8  # in a quarter of a minute

The text is the novels of `data/raw` again and again, their paragraphs in another order each time.
"""

import argparse
import lzma
import random
import tempfile
from pathlib import Path

from memory_worker import in_new_process, usage

from gluonlm.cli import run
from gluonlm.prepare import main as prepare
from gluonlm.system.machine import RESULTS, record

NOVELS = RESULTS.parent / "data" / "raw" / "austen.txt.xz"


def main(argv: list[str]) -> dict:
    """Measure each size, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[5, 500])
    parser.add_argument("--out", type=Path, default=RESULTS / "preparing.json")
    options = parser.parse_args(argv)
    rows = [measured(size) for size in options.megabytes]
    for row in rows:
        print(
            f"{row['megabytes']:g} MB: {row['processor_seconds']:.1f} s of processor time, "
            f"at most {row['peak_mib']:.0f} MiB"
        )
    return record(options.out, ["python", "benchmarks/preparing.py", *argv], sizes=rows)


def write_text(path: Path, size: int) -> None:
    """Write a text of about ``size`` bytes."""
    paragraphs = lzma.decompress(NOVELS.read_bytes()).decode().split("\n\n")
    order = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < size:
            order.shuffle(paragraphs)
            file.write("\n\n".join(paragraphs)[: size - file.tell()] + "\n\n")


def measured(megabytes: float) -> dict:
    """Prepare a text of this size in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "raw.txt")
        write_text(source, round(1e6 * megabytes))
        needed = in_new_process(usage, prepare, [str(source), "--out", f"{folder}/made"])
    return {"megabytes": megabytes, **needed}


if __name__ == "__main__":
    run(main)
