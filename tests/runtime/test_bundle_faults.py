"""What may happen to a bundle: a full disk, a kill, two writers at once, and a manifest that means harm."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segkit.errors import OutputExists, SegkitError, UsageError
from segkit_runtime.bundle import Bundle, write_bundle
from segkit_runtime.card import render_card
from segkit_runtime.checks import parse_manifest
from segkit_runtime.contents import list_ways

WRITE = """
import os
import signal
import sys
import time
from pathlib import Path
from segkit.errors import SegkitError
from segkit_runtime.bundle import Bundle, write_bundle
from segkit_runtime.manifest import Manifest

folder, manifest, model, filler, overwrite, times = sys.argv[1:]
content = Manifest.model_validate_json(Path(manifest).read_bytes())
content = content.model_copy(update={"name": filler})
files = {"model.onnx": Path(model), "engines/filler": filler[-1].encode() * 2_000_000}


def write(times):
    for _ in range(times):
        try:
            write_bundle(folder, content, files, overwrite == "overwrite")
            print("wrote", flush=True)
        except SegkitError as error:
            print(type(error).__name__, flush=True)


def kill_after(delay_s):
    if not os.path.exists(folder):
        write_bundle(folder, content, files)
    writer = os.fork()
    if writer == 0:
        os.close(1)
        os.open(os.devnull, os.O_WRONLY)
        try:
            write(10_000)
        finally:
            os._exit(1)
    time.sleep(delay_s)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    if not os.path.exists(folder):
        return "none"
    bundle = Bundle.open(folder)
    return "whole" if set(bundle.read("engines/filler")) == {ord(bundle.manifest.name[-1])} else "mixed"


print("ready", flush=True)
if sys.stdin.readline() == "kill\\n":
    for line in sys.stdin:
        print(kill_after(float(line)), flush=True)
else:
    write(int(times))
"""


@pytest.fixture
def start(tmp_path: Path, make_manifest: Callable, make_onnx: Callable) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a process that writes bundles to one place; it begins when it reads a line."""
    (tmp_path / "model").write_bytes(make_onnx())
    (tmp_path / "manifest").write_bytes(make_manifest(make_onnx()).to_json())
    started = []

    def run(folder: Path, name: str, overwrite: bool = True, times: int = 1) -> subprocess.Popen:
        arguments = [folder, tmp_path / "manifest", tmp_path / "model", name, "overwrite" if overwrite else "", times]
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def require_whole(folder: Path, names: set[str]) -> None:
    bundle = Bundle.open(folder)
    assert bundle.manifest.name in names
    assert set(bundle.read("engines/filler")) == {ord(bundle.manifest.name[-1])}


class TestWriters:
    def test_a_kill_at_any_time_leaves_the_old_bundle_or_a_new_one_or_none(
        self, tmp_path: Path, start: Callable
    ) -> None:
        folder = tmp_path / "out" / "x.segkit"
        process = start(folder, "b", times=10_000)
        process.stdin.write("kill\n" + "".join(f"{0.004 * step}\n" for step in range(20)))
        output, errors = process.communicate(timeout=100)
        assert errors == ""
        said = output.split()
        assert len(said) == 20
        assert set(said) <= {"whole", "none"}
        assert "whole" in said

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_of_two_at_once_each_wins_whole_or_is_told(self, tmp_path: Path, start: Callable, overwrite: bool) -> None:
        folder = tmp_path / "out" / "x.segkit"
        processes = [start(folder, name, overwrite, times=15) for name in ("a", "b")]
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=60) for process in processes]
        assert [errors for _, errors in said] == ["", ""]
        answers = [line for lines, _ in said for line in lines.split()]
        assert set(answers) <= {"wrote", "OutputExists"}
        assert answers.count("wrote") >= 1
        if not overwrite:
            assert answers.count("wrote") == 1
        require_whole(folder, {"a", "b"})
        assert [path.name for path in folder.parent.iterdir()] == ["x.segkit"]

    def test_one_that_came_second_does_not_overwrite_unasked(
        self, tmp_path: Path, make_manifest: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, real = tmp_path / "x.segkit", Bundle.open

        def open_late(*arguments: Any) -> Bundle:
            monkeypatch.setattr(Bundle, "open", real)
            write_bundle(folder, make_manifest(b"", name="first"), {"model.onnx": b""})
            return real(*arguments)

        monkeypatch.setattr(Bundle, "open", open_late)
        with pytest.raises(OutputExists, match=r"expected no other bundle to be written to .* at the same time"):
            write_bundle(folder, make_manifest(b"", name="second"), {"model.onnx": b""})
        assert Bundle.open(folder).manifest.name == "first"
        assert [path.name for path in tmp_path.iterdir()] == ["x.segkit"]


class TestFullDisk:
    @pytest.fixture
    def small_disk(self, tmp_path: Path) -> Iterator[Path]:
        """A file system of 1 MiB."""
        place = tmp_path / "disk"
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("a tmpfs cannot be mounted here")
        yield place
        subprocess.run(["umount", str(place)], check=True)

    @pytest.fixture
    def small_files(self) -> Iterator[None]:
        """No file may grow past 1 MiB."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def fill(self, folder: Path, make_manifest: Callable) -> None:
        """Write a bundle that fits, then one that does not; the first must be there, and nothing else."""
        write_bundle(folder, make_manifest(b"", name="old"), {"model.onnx": b""})
        for target, overwrite in ((folder, True), (folder.with_name("new.segkit"), False)):
            with pytest.raises(UsageError, match=r"the system says: (No space left|File too large).*; free space"):
                write_bundle(target, make_manifest(b""), {"model.onnx": b"", "filler": bytes(2**21)}, overwrite)
        assert Bundle.open(folder).manifest.name == "old"
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    def test_no_space_left_keeps_the_old_bundle(self, small_disk: Path, make_manifest: Callable) -> None:
        self.fill(small_disk / "x.segkit", make_manifest)

    @pytest.mark.usefixtures("small_files")
    def test_a_file_too_large_keeps_the_old_bundle(self, tmp_path: Path, make_manifest: Callable) -> None:
        self.fill(tmp_path / "x.segkit", make_manifest)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["model.onnx", "../x", "\x1b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def alter(data: st.DataObject, value: Any) -> Any:
    """A JSON value with one place in it replaced, taken away or added."""
    if isinstance(value, (dict, list)) and value and data.draw(st.integers(0, 3)):
        key = data.draw(st.sampled_from(sorted(value) if isinstance(value, dict) else list(range(len(value)))))
        if data.draw(st.integers(0, 9)):
            value[key] = alter(data, value[key])
        else:
            del value[key]
        return value
    return data.draw(JSON)


class TestHarm:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(data=st.data())
    def test_an_altered_manifest_is_read_and_shown_or_refused(
        self, data: st.DataObject, make_manifest: Callable
    ) -> None:
        content = alter(data, json.loads(make_manifest(b"").to_json()))
        raw = json.dumps(content).encode()
        with contextlib.suppress(SegkitError):
            manifest = parse_manifest(raw)
            assert all(line.isprintable() for line in render_card(manifest).split("\n"))
            list_ways(manifest)
            assert parse_manifest(manifest.to_json()) == manifest

    @settings(max_examples=150, deadline=None)
    @given(raw=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
    def test_bytes_that_are_no_manifest_are_refused(self, raw: bytes) -> None:
        with pytest.raises(SegkitError, match=r"^expected "):
            parse_manifest(raw)

    @pytest.mark.parametrize(
        "raw", [b'{"schema_version": ' + b"9" * 5000 + b"}", b'{"schema_version": 1e999}', b"\xff\xfe"]
    )
    def test_numbers_and_text_without_end_are_one_line(self, raw: bytes) -> None:
        with pytest.raises(SegkitError, match=r"^expected ") as raised:
            parse_manifest(raw)
        assert len(str(raised.value)) < 300
