"""Listings read metadata alone: no plugin, healthy or not, is imported."""

import pytest


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("models",),
        ("models", "--json"),
        ("plugins", "list"),
        ("plugins", "list", "--json"),
        ("data", "--help"),
        ("train", "--help"),
    ],
    ids=" ".join,
)
def test_listing_imports_no_third_party_plugin_and_succeeds_beside_broken_ones(segkit, arguments):
    answer = segkit(*arguments)
    assert (answer.code, answer.err, answer.imported) == (0, "", ())


def test_healthy_model_is_listed_with_its_distribution_and_version(segkit):
    models = segkit("models", "--json").json()
    assert models["schema"] == 1
    assert {"name": "acme-tiny", "from": "acme-healthy", "version": "1.2.0", "status": "ok"} in models["models"]


def test_healthy_model_is_built_and_only_its_own_module_imported(segkit):
    answer = segkit("models", "show", "acme-tiny", "--channels", "2", "--json")
    assert answer.code == 0, answer.err
    shown = answer.json()
    assert shown["schema"] == 1
    assert shown["from"] == "acme-healthy 1.2.0"
    assert shown["parameters"] == (2 * 27 + 1) * 2 + (2 + 1) * 4
    assert set(answer.imported) == {"acme_healthy", "acme_healthy.network"}


def test_healthy_model_answers_to_its_qualified_name_in_any_spelling(segkit):
    for name in ("acme-healthy:acme-tiny", "Acme_Healthy:acme-tiny"):
        answer = segkit("plugins", "show", name, "--json")
        assert answer.code == 0, answer.err
        assert [card["name"] for card in answer.json()["plugins"]] == ["acme-tiny"]


def test_plugins_list_has_every_claim_of_every_distribution(segkit):
    listed = segkit("plugins", "list", "--json").json()
    assert listed["schema"] == 1
    rows = {(row["kind"], row["from"], row["name"]): row["status"] for row in listed["plugins"]}
    assert rows["model", "acme-import", "import-fails"] == "ok"  # metadata cannot tell; `doctor` does
    assert rows["model", "twin-one", "twin"] == rows["model", "twin-two", "twin"] == "ambiguous"
    assert rows["model", "acme-vnet", "vnet"] == "shadowed"
    assert rows["model", "segkit3d", "vnet"] == "ok"


def test_unknown_model_is_told_the_nearest_name(segkit):
    answer = segkit("models", "show", "acme-tinny")
    assert answer.code == 2
    assert answer.err == "error: no model 'acme-tinny'; did you mean 'acme-tiny'?\n"
    assert answer.imported == ()


def test_metadata_that_an_interrupted_uninstall_left_stops_nothing_and_doctor_names_it(segkit, tmp_path):
    left = tmp_path / "path" / "acme_left-1.0.dist-info"
    left.mkdir(parents=True)
    (left / "entry_points.txt").write_text("[segkit.models]\nleft = acme_left\n")
    torn = tmp_path / "path" / "acme_torn-1.0.dist-info"
    torn.mkdir()
    (torn / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-torn\nVersion: 1.0\n")
    (torn / "entry_points.txt").write_text("[segkit.models]\ntorn\n")
    path = str(tmp_path / "path")
    models = segkit("models", PYTHONPATH=path)
    assert (models.code, models.err) == (0, "")
    doctor = segkit("plugins", "doctor", "hello", "--json", PYTHONPATH=path)
    assert doctor.code == 0
    assert set(doctor.json()["unreadable_distributions"]) == {str(left), str(torn)}


def test_distribution_that_is_installed_twice_is_used_once_and_doctor_names_both_places(segkit, tmp_path):
    second = tmp_path / "path" / "acme_healthy-9.0.dist-info"
    second.mkdir(parents=True)
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: Acme.Healthy\nVersion: 9.0\n")
    (second / "entry_points.txt").write_text("[segkit.models]\nacme-tiny = acme_healthy\n")
    path = str(tmp_path / "path")
    models = segkit("models", "--json", PYTHONPATH=path).json()["models"]
    assert [m["version"] for m in models if m["name"] == "acme-tiny"] == ["9.0"]
    left_by_a_build = tmp_path / "path" / "acme_healthy.egg-info"
    left_by_a_build.mkdir()
    (left_by_a_build / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: acme-healthy\nVersion: 9.0\n")
    (left_by_a_build / "entry_points.txt").write_text("[segkit.models]\nacme-tiny = acme_healthy\n")
    places = segkit("plugins", "doctor", "hello", "--json", PYTHONPATH=path).json()["shadowed_distributions"]
    assert list(places) == ["acme-healthy"]
    assert [place.rpartition(" ")[2] for place in places["acme-healthy"]] == ["(9.0)", "(1.2.0)"]
