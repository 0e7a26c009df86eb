"""Output: nothing that training made is replaced, devices stay devices, an old file is whole until
the new one is."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest
from safetensors.numpy import save_file
from small import fit

from gluonlm import evaluate, export, generate, prune, quantize
from gluonlm.model.checkpoint import load_model
from gluonlm.system.errors import UserError
from gluonlm.system.files import RUN_FILES, check_output, is_device, write_atomically, write_output


@pytest.fixture(scope="module")
def run(cats, tmp_path_factory):
    """A finished run whose best model is beside its folder, as ``--save PTB.pt`` makes it."""
    folder = tmp_path_factory.mktemp("data")
    fit(cats, folder / "PTB.pt", "--epochs", "1")
    return folder / "PTB"


def content(folder):
    return {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", [*RUN_FILES, "../PTB.pt"])
def test_no_command_replaces_what_training_made(run, name):
    path = str(run / name)
    commands = [
        (evaluate, [str(run), "--record", path]),
        (generate, [str(run), "--words", "5", "--outf", path]),
        (export, [str(run), path]),
        (export, [str(run), path, "--format", "torch"]),
        (quantize, [str(run), "--out", path]),
        (prune, [str(run), "--sparsity", "0.5", "--save", path]),
    ]
    if not (run / name).exists():  # best.safetensors: here it is PTB.pt
        return
    before = content(run) | content(run.parent)
    for command, arguments in commands:
        with pytest.raises(UserError, match="is what a training has made, and would be lost"):
            command.main(arguments)
    assert content(run) | content(run.parent) == before


def test_a_folder_that_is_made_for_an_output_is_named_once(tmp_path, capsys):
    for name in ("first.txt", "second.txt"):
        write_output(tmp_path / "mistyped" / "folder" / name, "words")
    assert capsys.readouterr().err == f"note: the folder {tmp_path / 'mistyped/folder'} is new\n"


def test_a_pruned_model_goes_where_every_output_may_go(run, tmp_path):
    small, other = tmp_path / "new" / "small.safetensors", tmp_path / "other.safetensors"
    other.write_bytes(b"old")
    for path in (small, other):
        prune.main([str(run), "--sparsity", "0.5", "--save", str(path)])
        assert load_model(path).pruned
    with pytest.raises(UserError, match="is what a training has made, and would be lost"):
        prune.main([str(run), "--sparsity", "0.9", "--save", str(small)])


def test_none_of_several_files_is_written_if_one_cannot_be(run, tmp_path):
    (tmp_path / "model-settings.json").mkdir()
    with pytest.raises(UserError, match=r"model-settings.json is a folder: name a file"):
        export.main([str(run), str(tmp_path / "model"), "--format", "gluon"])
    assert os.listdir(tmp_path) == ["model-settings.json"]


def test_a_damaged_model_is_still_one_that_training_made(run, tmp_path):
    whole = (run.parent / "PTB.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[:-9])
    with pytest.raises(UserError, match="would be lost"):
        check_output(tmp_path / "model.pt")


def test_what_others_made_may_be_replaced(tmp_path):
    save_file({}, tmp_path / "other.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text('{"hidden_size": 9}')
    for name in ("other.safetensors", "config.json", "new.json"):
        write_output(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new"
    write_output(tmp_path / "not" / "yet" / "there.txt", "new")


def test_a_pipe_is_written_to_and_stays_one(run, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    evaluate.main([str(run), "--record", str(tmp_path / "pipe")])
    reader.join(60)
    assert (tmp_path / "pipe").is_fifo()
    assert json.loads(read[0])["split"] == "test"


def test_a_stream_of_the_process_is_written_to(run, capfd):
    evaluate.main([str(run), "--record", "/dev/stdout"])
    assert '"machine"' in capfd.readouterr().out


def test_a_link_stays_one(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_output(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_an_old_file_is_whole_until_the_new_one_is(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "text").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_output(tmp_path / "text", "new")
    assert content(tmp_path) == {tmp_path / "text": b"old"}


def test_temporary_names_are_each_writers_own(tmp_path, monkeypatch):
    names, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (names.append(str(a)), replace(a, b)))
    write_atomically(tmp_path / "a", b"1")
    write_atomically(tmp_path / "a", b"2")
    assert len(set(names)) == 2
    assert all(str(os.getpid()) in name for name in names)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("x" * 300, "File name too long"),
        ("", "is a folder: name a file"),
        ("file/below", "choose another place"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(run, tmp_path, name, sentence):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=sentence):
        check_output(tmp_path / name)
    with pytest.raises(UserError, match=sentence):
        generate.main([str(run), "--outf", str(tmp_path / name)])


@pytest.mark.parametrize("stream", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/null"])
def test_files_in_shared_memory_are_no_devices(stream):
    """Before, a training in /dev/shm added each state to the end of the one before."""
    assert is_device(Path(stream))
    assert not is_device(Path("/dev/shm/run/last.safetensors"))


def test_a_model_does_not_get_the_name_of_an_onnx_file(cats, run, tmp_path):
    """gluonlm.load would ask ONNX Runtime to read it."""
    name = str(tmp_path / "model.onnx")
    for command in (
        lambda: fit(cats, name, "--epochs", "1"),
        lambda: quantize.main([str(run), "--out", name]),
        lambda: prune.main([str(run), "--sparsity", "0.5", "--save", name]),
    ):
        with pytest.raises(UserError, match="would be no ONNX file"):
            command()
    assert not list(tmp_path.iterdir())


def test_bytes_that_are_no_utf_8_are_escaped(tmp_path):
    write_output(tmp_path / "text", os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "text").read_text() == "caf\\udce9"
