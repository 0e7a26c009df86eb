"""Every command that README and the guide show is run here, with tiny models and texts.

What SMALLER and prepare() change makes it short; what ELSEWHERE names is tried there or cannot be.
"""

import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import load_script

import gluonlm.__main__
from gluonlm import train

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md")))
PROGRAM = r"(?:python (?!-c|-m gluonlm.COMMAND)|make |horovodrun |printf )"

# how a command begins: where it is tried, or why it is not
ELSEWHERE = {
    "make test": "these are the tests",
    "make docs": "tests/course/test_site.py",
    "make lab": "a window; tests/course/test_notebooks.py runs the lessons",
    "make bench": "python benchmarks/step.py",
    "make env MXNET=cu112": "2 GB to download; tests/project/test_setup.py",
    "make horovod": "minutes to build; tests/project/test_setup.py",
    "horovodrun": "tests/parallel/test_horovod.py",
    "python -m gluonlm.launch -n": "tests/parallel/test_ssh.py",
    "python continue.py": "PyTorch is not installed; tests/model/test_exchange.py has its files",
    "python benchmarks/exchange.py": "PyTorch is not installed",
    "python benchmarks/attention.py": "tests/project/test_bench.py",
    "python benchmarks/before.py": "needs the clone of an earlier version",
    "python benchmarks/busy.py": "tests/project/test_bench.py",
    "python benchmarks/kinds.py": "tests/text/test_kinds.py",
    "python benchmarks/page.py": "tests/onnx/test_web.py",
    "python benchmarks/qrnn.py": "tests/project/test_bench.py",
    "python benchmarks/weight_drop.py": "tests/project/test_bench.py",
    "python benchmarks/quantize.py": "tests/compress/test_quantize.py",
    "python benchmarks/ablation.py": "tests/project/test_ablation.py",
    "python benchmarks/robustness.py": "tests/project/test_robustness.py",
}
SIZES = "--emsize 8 --nhid 8 --batch-size 4 --bptt 5"
SHORT = "--epochs 1 --max-batches 2"
SMALLER = {  # program: what is added to its command
    "train": f"{SIZES} {SHORT}",
    "doctor": "--seconds 0",
    "adaptive": "--measure 33278 split --steps 1",
    "cache": "--tokens 600 --size 8 --windows 20 --repeats 1 --out figures.json",
    "loading": "--pairs 1 --sizes 1 --out figures.json",
    "preparing": "--megabytes 0.05 --out figures.json",
    "scoring": "--lines 30 --alone 5 --out figures.json",
    "subwords": "--data ptb --units 4 --more=--max-batches=1 --out figures.json",
    "sparse": "--sparsities 0.9 --rows 2 --texts 1 --seconds 0.05 --out figures.json",
    "tradeoff": str(ROOT / "results" / "quantized-ptb-ours-tied-6.json"),
}


def blocks(language: str) -> list[str]:
    """The blocks of code in that language."""
    text = "\n".join(page.read_text() for page in PAGES)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """The commands of all pages, in blocks and within lines, each once."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", "\n".join(map(Path.read_text, PAGES)), flags=re.S | re.M)
    found = [line.partition(" #")[0].strip() for line in lines if not line.startswith("#")]
    found += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    return list(dict.fromkeys(line for line in found if re.match(PROGRAM, line)))


def elsewhere(line: str) -> bool:
    """Whether this command is tried elsewhere; a table is printed here."""
    return line.startswith(tuple(ELSEWHERE)) and not line.endswith("--table")


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with what the commands name: data sets of a few hundred lines, and a run."""
    folder = tmp_path_factory.mktemp("desk")
    lines = (ROOT / "data" / "austen" / "valid.txt").read_text().splitlines()
    (folder / "ptb").mkdir()  # a folder of that name comes before the data set
    for split, part in (("train", lines[:200]), ("valid", lines[200:240]), ("test", lines[:9])):
        (folder / "ptb" / f"{split}.txt").write_text("\n".join(part) + "\n")
    options = ["--data", str(folder / "ptb"), "--save", str(folder / "runs" / "NAME"), "--tied"]
    train.main([*options, *SMALLER["train"].split()])
    text = "\n".join(lines[:300]) + "\n"
    (folder / "sentences.txt").write_text(text)
    for name in ("articles", "modules"):
        (folder / name).mkdir()
        (folder / name / "one.txt").write_text(text)
    rows = (json.dumps({"text": line}) + "\n" for line in lines[:300])
    (folder / "novels.jsonl").write_text("".join(rows))
    return folder


def prepare(words: list[str]) -> None:
    """Put what a command names into this folder, and take away what it is to make."""
    if words[0] == "gluonlm.train":  # for other commands austen is the model
        shutil.copytree("ptb", "austen")
    made = [words[i + 1] for i, word in enumerate(words) if word in ("--save", "--out")]
    for word in words:
        path = Path(word)
        if word in made:
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix == ".txt" and not path.exists():
            shutil.copy("sentences.txt", path)
        elif word.startswith("runs/") and not Path(*path.parts[:2]).exists():
            shutil.copytree("runs/NAME", Path(*path.parts[:2]))
        elif word.startswith("data/"):
            shutil.copytree("ptb", path)
    if words[1:2] == ["more.safetensors"]:
        run_python(["gluonlm.export", "runs/NAME", "more.safetensors", "--format", "torch"])
    if "more.pt" in words and words[1:2] != ["more.safetensors"]:
        shutil.copy("runs/NAME/best.safetensors", "more.pt")


def smaller(words: list[str]) -> list[str]:
    """The same command on the CPU, with a small model and few steps."""
    name = words[0].rpartition("." if words[0].startswith("gluonlm") else "/")[2]
    more = SMALLER.get(name.removesuffix(".py"), "").split()
    if "--table" in words or "--help" in words:
        return words
    words = [word for word in words if word != "--cuda"]  # there is no GPU: the same on the CPU
    if "--gpu" in words:  # which implies a preset
        place = words.index("--gpu")
        words = words[:place] + words[place + 2 :]
        more += [] if "--preset" in words else ["--preset", "tutorial"]
    if "--finetune" in words:
        more = SHORT.split()
    if "--resume" in words:
        more = ["--epochs", "2"]
    return [*words, *more]


def run_python(words: list[str]) -> None:
    """What ``python -m WORDS`` or ``python WORDS`` runs, in this process."""
    program, *argv = words
    try:
        if program == "gluonlm":
            gluonlm.__main__.main()
        elif program.startswith("gluonlm."):
            importlib.import_module(program).main(argv)
        else:
            load_script(program).main(argv)
    except SystemExit as ended:  # --help
        if ended.code:
            raise


def of_make(line: str) -> str:
    """The Python command that make would run."""
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MXNET", "ARGS"}
    environment = {key: value for key, value in os.environ.items() if key not in outer}
    command = ["make", "-n", *shlex.split(line)[1:]]
    shown = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return re.search(r"python -m gluonlm.*", shown.stdout)[0]


@pytest.fixture
def _at_the_desk(desk, tmp_path, monkeypatch):
    """A copy of the desk to work at, where nothing can be downloaded."""
    shutil.copytree(desk, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.setattr("gluonlm.text.sources.fetch", lambda name, *_: pytest.fail(f"loads {name}"))


@pytest.mark.usefixtures("_at_the_desk")
@pytest.mark.parametrize("line", [one for one in commands() if not elsewhere(one)])
def test_a_command_of_the_documentation_runs(line, monkeypatch, capsys):
    before, python, after = re.fullmatch(
        r"(.*?)((?:python|make) (?:[^|]|(?<=')\|)*)(.*)", line
    ).groups()
    command = of_make(python) if python.startswith("make") else python
    words = [word for word in shlex.split(command)[1:] if word != "-m"]
    prepare(words)
    given = shell(before.rstrip("| ")) if before else Path("sentences.txt").read_bytes()[:2000]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    monkeypatch.setattr(sys, "argv", ["gluonlm"])
    run_python(smaller(words))
    said = capsys.readouterr().out
    assert said
    assert not after or shell(f"cat {after}", said.encode())


def shell(line: str, given: bytes = b"") -> bytes:
    """What a line of shell prints."""
    return subprocess.run(["bash", "-c", line], input=given, capture_output=True, check=True).stdout


@pytest.mark.usefixtures("_at_the_desk")
@pytest.mark.parametrize("code", [one for one in blocks("python") if "import torch" not in one])
def test_the_python_of_the_documentation_runs(code):
    run_python(["gluonlm.export", "runs/NAME"])
    exec(compile(code, "documentation", "exec"), {})


def test_what_is_tried_elsewhere_is_there():
    lines = commands()
    assert [begin for begin in ELSEWHERE if not any(one.startswith(begin) for one in lines)] == []
    files = [word for why in ELSEWHERE.values() for word in why.split() if word.endswith(".py")]
    assert [name for name in files if not (ROOT / name).is_file()] == []
    here = [line for line in lines if not elsewhere(line)]
    assert len(here) > 40
    large = [  # a benchmark at its full size, which would also replace its record
        line
        for line in here
        if (name := re.match(r"python benchmarks/(\w+)\.py", line))
        and name[1] not in SMALLER
        and not re.search(r"table( \S+)?$", line)
    ]
    assert large == []
