"""Bundles: written as a whole or not at all, and refused if one byte is not what it should be."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import segkit_runtime.bundle
import segkit_runtime.checks
from segkit.errors import BundleError, OutputExists, UsageError
from segkit_runtime.bundle import Bundle, write_bundle
from segkit_runtime.manifest import SCHEMA, Manifest

FILES = ["SHA256SUMS", "card.md", "engines/toy.engine", "manifest.json", "model.onnx"]


def list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def rewrite_sums(bundle: Path) -> None:
    """Make the checksums right again, as somebody who alters a bundle on purpose would."""
    names = [name for name in list_files(bundle) if name != "SHA256SUMS"]
    lines = [f"{hashlib.sha256((bundle / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (bundle / "SHA256SUMS").write_text("".join(lines))


def alter_manifest(bundle: Path, change: Callable[[dict], object]) -> None:
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    rewrite_sums(bundle)


class TestOpen:
    def test_an_intact_bundle_gives_its_manifest_and_its_files(self, bundle: Path, make_onnx: Callable) -> None:
        opened = Bundle.open(bundle)
        assert list_files(bundle) == FILES
        assert opened.folder == bundle
        assert opened.manifest.name == "threshold"
        assert opened.id == hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
        assert opened.read("model.onnx") == make_onnx()

    def test_a_link_to_a_bundle_is_a_bundle(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "latest").symlink_to(bundle)
        assert Bundle.open(tmp_path / "latest").manifest.name == "threshold"

    @pytest.mark.parametrize("place", ["first", "middle", "last"])
    @pytest.mark.parametrize("name", FILES)
    def test_one_flipped_bit_in_any_file_is_refused(self, bundle: Path, name: str, place: str) -> None:
        content = bytearray((bundle / name).read_bytes())
        content[{"first": 0, "middle": len(content) // 2, "last": -1}[place]] ^= 1
        (bundle / name).write_bytes(content)
        with pytest.raises(BundleError, match=r"^expected .* (found|missing|got) "):
            Bundle.open(bundle)

    def test_any_flipped_bit_in_the_checksums_is_refused(self, bundle: Path) -> None:
        content = (bundle / "SHA256SUMS").read_bytes()
        for position in range(len(content)):
            flipped = bytearray(content)
            flipped[position] ^= 1 << position % 8
            (bundle / "SHA256SUMS").write_bytes(flipped)
            with pytest.raises(BundleError, match=r"^expected "):
                Bundle.open(bundle)

    @pytest.mark.parametrize("name", FILES)
    def test_a_missing_file_is_refused_by_name(self, bundle: Path, name: str) -> None:
        (bundle / name).unlink()
        with pytest.raises(BundleError, match=f"{name}.* missing"):
            Bundle.open(bundle)

    @pytest.mark.parametrize("name", ["weights.bin", "engines/other.engine", ".hidden", "deep/er/file"])
    def test_a_file_that_is_not_listed_is_refused(self, bundle: Path, name: str) -> None:
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(b"extra")
        with pytest.raises(BundleError, match=f"expected only the files that SHA256SUMS lists.*{name}"):
            Bundle.open(bundle)

    @pytest.mark.parametrize("name", FILES)
    def test_a_link_in_place_of_a_file_is_refused(self, bundle: Path, tmp_path: Path, name: str) -> None:
        (bundle / name).rename(tmp_path / "elsewhere")
        (bundle / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(BundleError, match="link"):
            Bundle.open(bundle)

    @pytest.mark.parametrize("name", FILES)
    def test_a_file_with_a_second_name_elsewhere_is_refused(self, bundle: Path, tmp_path: Path, name: str) -> None:
        os.link(bundle / name, tmp_path / "elsewhere")
        with pytest.raises(BundleError, match=f"{name}' has another name elsewhere.*; copy the bundle"):
            Bundle.open(bundle)

    def test_a_link_to_a_folder_is_refused(self, bundle: Path, tmp_path: Path) -> None:
        (bundle / "engines").rename(tmp_path / "engines")
        (bundle / "engines").symlink_to(tmp_path / "engines")
        with pytest.raises(BundleError, match="'engines' is a link"):
            Bundle.open(bundle)

    def test_a_pipe_is_refused_and_not_waited_for(self, bundle: Path) -> None:
        (bundle / "model.onnx").unlink()
        os.mkfifo(bundle / "model.onnx")
        with pytest.raises(BundleError, match=r"'model\.onnx' is a link or no file"):
            Bundle.open(bundle)

    @pytest.mark.parametrize(
        "name",
        [
            "../outside",
            "/etc/hostname",
            "engines/../../outside",
            "./model.onnx",
            "a\\b",
            "c:x",
            ".hidden",
            "MODEL.onnx",
            "Engines/other",
            "engines",
            "model.onnx/more",
            "SHA256SUMS",
            "sha256sums.sig",
            "nul.txt",
            "dot.",
        ],
    )
    def test_a_name_that_could_mean_another_place_is_refused(self, bundle: Path, name: str) -> None:
        with (bundle / "SHA256SUMS").open("a") as file:
            file.write(f"{'0' * 64}  {name}\n")
        with pytest.raises(BundleError, match="expected plain, different file names"):
            Bundle.open(bundle)

    @pytest.mark.parametrize(
        "line", ["", "junk", "0" * 64 + " *model.onnx", "0" * 63 + "  x", "0" * 64 + "  model.onnx"]
    )
    def test_a_line_that_is_no_hash_and_new_name_is_refused(self, bundle: Path, line: str) -> None:
        with (bundle / "SHA256SUMS").open("a") as file:
            file.write(line + "\n")
        with pytest.raises(BundleError, match="expected a hash and a new file name on each line"):
            Bundle.open(bundle)

    def test_checksums_that_are_no_text_are_refused(self, bundle: Path) -> None:
        (bundle / "SHA256SUMS").write_bytes(bytes(range(256)))
        with pytest.raises(BundleError, match="expected a hash and a new file name"):
            Bundle.open(bundle)

    def test_checksums_without_the_manifest_are_refused(self, bundle: Path) -> None:
        lines = (bundle / "SHA256SUMS").read_text().splitlines(keepends=True)
        (bundle / "SHA256SUMS").write_text("".join(line for line in lines if "manifest" not in line))
        with pytest.raises(BundleError, match=r"expected 'manifest\.json'"):
            Bundle.open(bundle)

    def test_a_list_without_end_is_refused(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(segkit_runtime.checks, "MAX_TEXT_BYTES", 100)
        with pytest.raises(BundleError, match=r"expected at most .* MiB in .*SHA256SUMS"):
            Bundle.open(bundle)

    def test_more_bytes_than_a_bundle_has_are_refused(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(segkit_runtime.checks, "MAX_BUNDLE_BYTES", 1000)
        with pytest.raises(BundleError, match="expected at most 0 GiB"):
            Bundle.open(bundle)

    def test_more_files_than_a_bundle_has_are_refused(self, bundle: Path) -> None:
        for index in range(100):
            (bundle / f"extra{index}").touch()
        with pytest.raises(BundleError, match="expected at most 64 files"):
            Bundle.open(bundle)

    @pytest.mark.parametrize(("make", "found"), [(Path.touch, "a file"), (Path.exists, "nothing")])
    def test_what_is_no_folder_is_refused(self, tmp_path: Path, make: Callable, found: str) -> None:
        make(tmp_path / "no.segkit")
        with pytest.raises(BundleError, match=f"expected a bundle.* found {found}"):
            Bundle.open(tmp_path / "no.segkit")

    def test_a_file_altered_after_opening_is_refused_when_it_is_read(self, opened: Bundle) -> None:
        (opened.folder / "model.onnx").write_bytes(b"another model")
        with pytest.raises(BundleError, match=r"'model\.onnx' with SHA-256"):
            opened.read("model.onnx")

    def test_a_file_that_went_away_after_opening_is_one_line(self, opened: Bundle) -> None:
        (opened.folder / "model.onnx").unlink()
        with pytest.raises(BundleError, match="the system says: No such file"):
            opened.read("model.onnx")

    @pytest.mark.parametrize("name", ["../secret", "SHA256SUMS", "other"])
    def test_only_listed_files_are_read(self, opened: Bundle, name: str) -> None:
        with pytest.raises(BundleError, match=r"in the bundle .* it has card\.md, engines/toy\.engine"):
            opened.read(name)


class TestSchema:
    @pytest.mark.parametrize("version", [0, SCHEMA - 1, SCHEMA + 1, str(SCHEMA), None])
    def test_another_version_is_refused_before_anything_else(self, bundle: Path, version: object) -> None:
        alter_manifest(bundle, lambda m: m.update(schema_version=version, unheard_of=1))
        with pytest.raises(BundleError, match=rf"expected a manifest of schema {SCHEMA}, found .*; upgrade segkit3d"):
            Bundle.open(bundle)

    @pytest.mark.parametrize(
        ("change", "where"),
        [
            (lambda m: m.update(run_this="import os"), "run_this: Extra inputs"),
            (lambda m: m["inference"].update(step=1), "inference.step: Extra inputs"),
            (lambda m: m.pop("labels"), "labels: Field required"),
            (lambda m: m["inference"].update(overlap=0.9), "inference.overlap: .* less than or equal to 0.75"),
            (lambda m: m["inference"].update(patch=[0, 8, 8]), "inference.patch.0: .* greater than or equal to 1"),
            (lambda m: m["preprocessing"].update(background="grey"), "preprocessing.background: Input should be"),
            (lambda m: m["labels"][2].update(code=150), "different label codes, got 150 twice"),
            (lambda m: m["labels"][2].update(name="grey matter"), "different label names, got 'grey matter' twice"),
            (lambda m: m.update(modalities=["T1", "T1"]), "different modalities, got 'T1' twice"),
            (lambda m: m["spacing"].update(least_mm=[2, 2, 2]), "expected least_mm not above most_mm"),
            (lambda m: m.update(resample_mm=[1, 1, 2]), "expected resample_mm within spacing"),
            (lambda m: m.update(resample_mm=[1, 1, 1], spacing=None), "expected resample_mm within spacing"),
            (lambda m: m["proofs"][0].update(max_abs_logit=float("nan")), "max_abs_logit: .* finite"),
            (lambda m: m.update(name="two\nlines"), "name: .* pattern"),
        ],
    )
    def test_what_the_schema_does_not_know_is_refused(self, bundle: Path, change: Callable, where: str) -> None:
        alter_manifest(bundle, change)
        with pytest.raises(BundleError, match=where):
            Bundle.open(bundle)

    @pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000])
    def test_what_is_no_manifest_is_refused(self, bundle: Path, content: str) -> None:
        (bundle / "manifest.json").write_text(content)
        rewrite_sums(bundle)
        with pytest.raises(BundleError, match=r"expected (JSON in manifest|a manifest of schema)"):
            Bundle.open(bundle)

    def test_a_manifest_of_another_model_is_refused(self, bundle: Path, make_onnx: Callable) -> None:
        (bundle / "model.onnx").write_bytes(make_onnx(scale=2))
        rewrite_sums(bundle)
        with pytest.raises(BundleError, match=r"expected 'model\.onnx' with SHA-256"):
            Bundle.open(bundle)

    def test_the_manifest_is_written_the_same_way_every_time(self, make_manifest: Callable) -> None:
        first = make_manifest(b"model").to_json()
        assert first == make_manifest(b"model").to_json()
        assert first == (json.dumps(json.loads(first), sort_keys=True, indent=1) + "\n").encode()
        assert Manifest.model_validate_json(first) == make_manifest(b"model")


class TestWrite:
    @pytest.fixture
    def content(self, make_onnx: Callable) -> dict[str, bytes]:
        return {"model.onnx": make_onnx()}

    @pytest.fixture
    def manifest(self, make_onnx: Callable, make_manifest: Callable) -> Manifest:
        return make_manifest(make_onnx())

    def test_what_is_written_is_returned_and_can_be_opened(
        self, tmp_path: Path, content: dict, manifest: Manifest
    ) -> None:
        written = write_bundle(tmp_path / "deep" / "new.segkit", manifest, content)
        assert written == Bundle.open(tmp_path / "deep" / "new.segkit")
        assert written.manifest == manifest
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["new.segkit"]

    def test_files_are_copied_from_paths_too(self, tmp_path: Path, content: dict, manifest: Manifest) -> None:
        (tmp_path / "model").write_bytes(content["model.onnx"])
        written = write_bundle(tmp_path / "new.segkit", manifest, {"model.onnx": tmp_path / "model"})
        assert written.read("model.onnx") == content["model.onnx"]

    def test_the_same_content_gives_the_same_bytes(self, tmp_path: Path, content: dict, manifest: Manifest) -> None:
        first, second = (write_bundle(tmp_path / name, manifest, content).folder for name in ("a.segkit", "b.segkit"))
        assert [(first / n).read_bytes() for n in list_files(first)] == [
            (second / n).read_bytes() for n in list_files(second)
        ]

    def test_an_existing_bundle_is_kept_unless_told_otherwise(
        self, bundle: Path, content: dict, manifest: Manifest
    ) -> None:
        with pytest.raises(OutputExists, match=r"expected nothing at .*--overwrite"):
            write_bundle(bundle, manifest, content)
        assert list_files(bundle) == FILES
        write_bundle(bundle, manifest, content, overwrite=True)
        assert list_files(bundle) == [name for name in FILES if "engine" not in name]
        assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]

    @pytest.mark.parametrize("kind", ["folder", "file", "link"])
    def test_what_is_no_bundle_is_never_overwritten(
        self, tmp_path: Path, bundle: Path, content: dict, manifest: Manifest, kind: str
    ) -> None:
        target = tmp_path / "precious"
        {"folder": target.mkdir, "file": target.touch, "link": lambda: target.symlink_to(bundle)}[kind]()
        with pytest.raises(UsageError, match="expected a bundle to overwrite"):
            write_bundle(target, manifest, content, overwrite=True)
        assert os.path.lexists(target)

    @pytest.mark.parametrize("error", [KeyboardInterrupt("stopped"), OSError(28, "No space left on device")])
    @pytest.mark.parametrize("step", ["render_card", "_write_checksums", "_swap", "Path.rename"])
    @pytest.mark.parametrize("there", [False, True])
    def test_nothing_is_left_behind_when_it_is_stopped(
        self,
        tmp_path: Path,
        make_bundle: Callable,
        content: dict,
        manifest: Manifest,
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        step: str,
        there: bool,
    ) -> None:
        folder = make_bundle() if there else tmp_path / "threshold.segkit"

        def fail(*arguments: object) -> None:
            raise error

        if step == "Path.rename":
            real = Path.rename
            # Only the new folder's own way is barred: the old one can be put aside and comes back.
            monkeypatch.setattr(
                Path,
                "rename",
                lambda self, to: fail() if to == folder and not self.name.endswith(".old") else real(self, to),
            )
        else:
            monkeypatch.setattr(segkit_runtime.bundle, step, fail)
        with pytest.raises(UsageError if isinstance(error, OSError) else KeyboardInterrupt, match=r"No space|stopped"):
            write_bundle(folder, manifest, content, overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == (["threshold.segkit"] if there else [])
        if there:
            assert list_files(folder) == FILES
            Bundle.open(folder)

    @pytest.mark.parametrize("name", ["../up", "/absolute", "a/../../b", ".hidden", "a b", "x/", "", "Model.onnx"])
    def test_names_that_could_mean_another_place_are_refused(
        self, tmp_path: Path, content: dict, manifest: Manifest, name: str
    ) -> None:
        with pytest.raises(UsageError, match="expected plain, different file names"):
            write_bundle(tmp_path / "new.segkit", manifest, {**content, name: b""})
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS", "card.md"])
    def test_files_that_are_made_cannot_be_given(
        self, tmp_path: Path, content: dict, manifest: Manifest, name: str
    ) -> None:
        with pytest.raises(UsageError, match=f"got {name}; leave it out"):
            write_bundle(tmp_path / "new.segkit", manifest, {**content, name: b""})

    def test_a_manifest_of_another_model_is_not_written(self, tmp_path: Path, manifest: Manifest) -> None:
        with pytest.raises(BundleError, match=r"expected 'model\.onnx' with SHA-256"):
            write_bundle(tmp_path / "new.segkit", manifest, {"model.onnx": b"another"})
        assert list(tmp_path.iterdir()) == []

    def test_an_engine_that_is_not_there_is_not_written(
        self, tmp_path: Path, content: dict, make_manifest: Callable, make_engine: Callable
    ) -> None:
        engine = make_engine(file="engines/gone.engine")
        with pytest.raises(BundleError, match=r"expected the engine 'engines/gone\.engine'"):
            write_bundle(tmp_path / "new.segkit", make_manifest(content["model.onnx"], engines=[engine]), content)
        assert list(tmp_path.iterdir()) == []

    def test_a_self_check_that_is_not_there_is_not_written(
        self, tmp_path: Path, content: dict, make_manifest: Callable
    ) -> None:
        manifest = make_manifest(content["model.onnx"], selfcheck={"image": "model.onnx", "labels": "gone.npy"})
        with pytest.raises(BundleError, match=r"expected 'gone\.npy' of the self-check"):
            write_bundle(tmp_path / "new.segkit", manifest, content)


def test_a_bundle_can_be_copied_elsewhere(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "copy of a bundle, ü")
    copied = Bundle.open(tmp_path / "copy of a bundle, ü")
    assert dataclasses.replace(copied, folder=bundle) == Bundle.open(bundle)
