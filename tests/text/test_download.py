"""Downloads against a server on this machine that misbehaves in every way we know of."""

import hashlib
import io
import multiprocessing
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
import requests

from gluonlm.system.errors import UserError
from gluonlm.text import download
from gluonlm.text.download import File, Mirror, fetch

TEXT = b"".join(
    b"line %d of the text\n" % number for number in range(20_000)
)  # 460 kB: several pieces
HALF = len(TEXT) // 2


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files`` as ``server.ways`` says: for each path one way per request, the last
    for good."""

    def do_GET(self):
        server = self.server
        way = server.way(self.path)
        server.requests.append((self.path, self.headers.get("Range")))
        if isinstance(way, int):
            self.send_error(way)
            return
        content = b"wrong bytes" * 100 if way == "wrong" else server.files[self.path]
        start = 0
        if (wanted := self.headers.get("Range")) and way != "no ranges":
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            if way == "other range":
                start = 0
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if way != "no length":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if way in ("break", "stall"):
            end = start + (len(content) - start) // 2
        if way == "nothing":
            end = start
        self.wfile.write(content[start:end])
        self.wfile.flush()
        if way == "stall":
            server.stop.wait(100)
        if way == "slow":
            time.sleep(0.5)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.ways, self.requests, self.stop = {}, {}, [], threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.requests)

    def way(self, path: str) -> str | int:
        """How the next request for a path is served."""
        ways = self.ways.get(path, ["fine"])
        return ways[min(self.count(path), len(ways) - 1)]


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server, ask = Server(), requests.get

    def impatient(url, timeout, **options):
        """Ask with a sixtieth of the patience where there will be a stall, and only there."""
        stalls = server.way(urlsplit(url).path) == "stall"
        return ask(url, timeout=tuple(one / (60 if stalls else 1) for one in timeout), **options)

    monkeypatch.setattr(requests, "get", impatient)
    server.files = {"/a/train.txt": TEXT, "/b/train.txt": TEXT}
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def get(server, tmp_path):
    """Fetch train.txt from the mirrors a and b, or those given; returns the folder's visible files
    with contents."""

    def run(*mirrors: Mirror, content: bytes = TEXT) -> dict[str, bytes]:
        default = (Mirror(f"{server.url}/a/{{}}.txt"), Mirror(f"{server.url}/b/{{}}.txt"))
        fetch("demo", tmp_path, [File("train.txt", sha256(content))], mirrors or default)
        return {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != ".lock"}

    return run


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return buffer.getvalue()


def test_a_file_is_fetched_once(server, get, capsys):
    assert get() == {"train.txt": TEXT}
    assert get() == {"train.txt": TEXT}
    assert server.requests == [("/a/train.txt", None)]
    assert "train.txt: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("way", [403, 404, 500, 503, "wrong", "nothing", "other range"])
def test_the_second_mirror_helps(server, get, tmp_path, way, capsys):
    server.ways["/a/train.txt"] = [way]
    if way == "other range":
        (tmp_path / "train.txt.part").write_bytes(TEXT[:HALF])
    assert get() == {"train.txt": TEXT}
    assert server.count("/b/train.txt") == 1
    error = capsys.readouterr().err
    assert f"{server.url}/a/train.txt: " in error
    assert "trying the next mirror" in error
    assert not isinstance(way, int) or f"HTTP {way}" in error


@pytest.mark.parametrize("way", ["break", "stall"])
def test_a_broken_transfer_goes_on_where_it_ended(server, get, way):
    server.ways["/a/train.txt"] = [way, way, "fine"]
    assert get() == {"train.txt": TEXT}
    ranges = [wanted for _, wanted in server.requests]
    assert ranges[0] is None
    starts = [int(wanted[6:-1]) for wanted in ranges[1:]]
    assert HALF - download.PIECE < starts[0] <= HALF  # what was under way when it broke may be lost
    assert starts[0] < starts[1] <= HALF + HALF // 2


def test_a_server_without_ranges_starts_anew(server, get):
    server.ways["/a/train.txt"] = ["break", "no ranges"]
    assert get() == {"train.txt": TEXT}
    assert server.requests[1][1].startswith("bytes=")
    assert server.count("/a/train.txt") == 2


def test_a_part_of_an_earlier_run_is_used(server, get, tmp_path):
    (tmp_path / "train.txt.part").write_bytes(TEXT[:1000])
    assert get() == {"train.txt": TEXT}
    assert server.requests == [("/a/train.txt", "bytes=1000-")]


@pytest.mark.parametrize("part", [b"other text " * 1000, b"x" * len(TEXT), TEXT + b"more"])
def test_a_part_of_another_file_is_thrown_away(server, get, tmp_path, part):
    (tmp_path / "train.txt.part").write_bytes(part)
    assert get() == {"train.txt": TEXT}
    assert server.requests[-1] == ("/a/train.txt", None)
    assert server.count("/b/train.txt") == 0


def test_a_complete_part_needs_no_more_bytes(server, get, tmp_path):
    (tmp_path / "train.txt.part").write_bytes(TEXT)
    assert get() == {"train.txt": TEXT}
    assert server.requests == [("/a/train.txt", f"bytes={len(TEXT)}-")]


def test_a_body_without_a_length_is_verified_all_the_same(server, get):
    server.ways["/a/train.txt"] = ["no length"]
    assert get() == {"train.txt": TEXT}


def test_wrong_bytes_are_never_left(server, get, tmp_path):
    server.ways = {"/a/train.txt": ["wrong"], "/b/train.txt": ["wrong"]}
    with pytest.raises(UserError, match="its sha256 is not that of the file expected"):
        get()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_offline_names_the_file_and_its_place(server, get, tmp_path):
    server.ways = {"/a/train.txt": [404]}
    nowhere = Mirror("http://127.0.0.1:9/{}.txt")  # the discard port: nobody listens
    with pytest.raises(UserError) as caught:
        get(nowhere, Mirror(f"{server.url}/a/{{}}.txt"))
    sentence = str(caught.value)
    assert "127.0.0.1: no connection; 127.0.0.1: HTTP 404" in sentence
    assert sentence.endswith(
        f"fetch by hand and save http://127.0.0.1:9/train.txt as {tmp_path / 'train.txt'}"
    )
    with pytest.raises(UserError) as caught:
        get(Mirror("http://127.0.0.1:9/all.zip", "{}.txt"))
    assert str(caught.value).endswith(
        f"fetch http://127.0.0.1:9/all.zip by hand and save it as {tmp_path / 'all.zip'}"
    )


def test_a_stalled_mirror_is_given_up_in_time(server, get):
    server.files["/a/train.txt"] = TEXT[:1]  # half of one byte: nothing ever comes
    server.ways["/a/train.txt"] = ["stall"]
    began = time.monotonic()
    assert get() == {"train.txt": TEXT}
    assert time.monotonic() - began < 60  # of 300 that three stalls last
    assert server.count("/a/train.txt") == download.ATTEMPTS


def test_a_file_put_there_by_hand_is_verified(server, get, tmp_path):
    (tmp_path / "train.txt").write_bytes(TEXT)
    assert get() == {"train.txt": TEXT}
    (tmp_path / "train.txt").write_bytes(b"an error page")
    with pytest.raises(
        UserError, match=r"train\.txt is not the file expected \(its sha256 differs\): delete it"
    ):
        get()
    assert (tmp_path / "train.txt").read_bytes() == b"an error page"  # not ours to delete
    assert server.requests == []


def test_sha1_is_known_too(tmp_path):
    (tmp_path / "a").write_bytes(TEXT)
    assert download.correct(tmp_path / "a", "sha1:" + hashlib.sha1(TEXT).hexdigest())
    assert not download.correct(tmp_path / "a", "sha1:" + hashlib.sha1(b"").hexdigest())
    assert not download.correct(tmp_path / "b", sha256(TEXT))


def test_an_archive_is_unpacked_and_deleted(server, get):
    server.files["/all.zip"] = archive(**{"wiki/wiki.train.tokens": TEXT, "wiki/readme": b"hello"})
    server.ways["/all.zip"] = ["break", "fine"]
    assert get(Mirror(f"{server.url}/all.zip", "wiki.{}.tokens")) == {"train.txt": TEXT}


def test_a_part_of_another_archive_is_thrown_away(server, get, tmp_path):
    server.files["/all.zip"] = archive(**{"wiki.train.tokens": TEXT})
    (tmp_path / "all.zip.part").write_bytes(b"x" * 1000)
    assert get(Mirror(f"{server.url}/all.zip", "wiki.{}.tokens")) == {"train.txt": TEXT}
    assert server.requests == [("/all.zip", "bytes=1000-"), ("/all.zip", None)]


def test_an_archive_put_there_by_hand_is_used(server, get, tmp_path):
    (tmp_path / "all.zip").write_bytes(archive(**{"wiki.train.tokens": TEXT}))
    assert get(Mirror(f"{server.url}/all.zip", "wiki.{}.tokens")) == {"train.txt": TEXT}
    assert server.requests == []


@pytest.mark.parametrize(
    "name", ["../../wiki.train.tokens", "/tmp/wiki.train.tokens", "..\\wiki.train.tokens"]
)
def test_an_archive_cannot_write_elsewhere(server, get, tmp_path, name):
    """Where a member goes is ours to say; one that is not found by its own name is not unpacked at
    all."""
    before = set(tmp_path.parent.iterdir())
    server.files["/all.zip"] = archive(**{name: TEXT, "../evil.txt": b"evil", "/evil.txt": b"evil"})
    files = get(
        Mirror(f"{server.url}/all.zip", "wiki.{}.tokens"), Mirror(f"{server.url}/b/{{}}.txt")
    )
    assert files == {"train.txt": TEXT}
    assert set(tmp_path.parent.iterdir()) == before


def broken(content: bytes) -> bytes:
    """The archive with bytes of its first member overwritten."""
    return content[:100] + bytes(200) + content[300:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>not here</html>", "File is not a zip file"),
        (archive(other=TEXT), "it has 0 members wiki.train.tokens"),
        (archive(**{"a/wiki.train.tokens": TEXT, "b/wiki.train.tokens": TEXT}), "it has 2 members"),
        (archive(**{"wiki.train.tokens": TEXT + b"x"}), "the sha256 of wiki.train.tokens differs"),
        (broken(archive(**{"wiki.train.tokens": TEXT})), "not the archive expected"),
        (archive(**{"wiki.train.tokens": TEXT})[:-30], "not the archive expected"),
    ],
)
def test_a_wrong_archive_is_deleted_and_the_next_mirror_tried(server, get, content, reason, capsys):
    server.files["/all.zip"] = content
    mirrors = Mirror(f"{server.url}/all.zip", "wiki.{}.tokens"), Mirror(f"{server.url}/b/{{}}.txt")
    assert get(*mirrors) == {"train.txt": TEXT}
    assert reason in capsys.readouterr().err


def test_an_archive_too_large_is_not_unpacked(server, get, monkeypatch):
    monkeypatch.setattr(download, "LARGEST_MEMBER", 1000)
    server.files["/all.zip"] = archive(**{"wiki.train.tokens": TEXT})
    with pytest.raises(UserError, match="wiki.train.tokens is too large"):
        get(Mirror(f"{server.url}/all.zip", "wiki.{}.tokens"))


def fetch_in_process(url: str, folder, barrier) -> None:
    barrier.wait()
    fetch("demo", folder, [File("train.txt", sha256(TEXT))], [Mirror(url)])


def test_two_processes_download_once(server, tmp_path):
    server.ways["/a/train.txt"] = ["slow"]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    arguments = (f"{server.url}/a/{{}}.txt", tmp_path, barrier)
    processes = [context.Process(target=fetch_in_process, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "train.txt").read_bytes() == TEXT
    assert server.count("/a/train.txt") == 1


def test_waiting_is_said(server, get, tmp_path, capsys):
    with download.lock(tmp_path):
        thread = threading.Thread(target=get)
        thread.start()
        said, give_up = "", time.monotonic() + 60
        while "another process is downloading" not in said and time.monotonic() < give_up:
            thread.join(0.05)
            said += capsys.readouterr().err
        thread.join(0.2)
        assert thread.is_alive()
        assert server.requests == []
    thread.join(60)
    assert (tmp_path / "train.txt").read_bytes() == TEXT
    assert "another process is downloading" in said


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written .*GLUONLM_DATA"):
        fetch(
            "demo",
            tmp_path / "file" / "demo",
            [File("train.txt", sha256(TEXT))],
            [Mirror("http://127.0.0.1:9/{}")],
        )


def test_a_folder_in_the_place_of_a_file_is_said(tmp_path):
    (tmp_path / "train.txt").mkdir()
    with pytest.raises(UserError, match="is not the file expected .*: delete it"):
        fetch("demo", tmp_path, [File("train.txt", sha256(TEXT))], [])


def test_requests_errors_in_words():
    assert download.describe(requests.ConnectTimeout()) == "no answer in time"
    assert download.describe(requests.ConnectionError("Read timed out.")) == "no answer in time"
    assert download.describe(requests.exceptions.ChunkedEncodingError()) == "the connection broke"
    assert download.describe(requests.ConnectionError()) == "no connection"
