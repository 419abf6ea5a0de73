"""The registry on entries made by hand; `tests/third_party` has it on installed distributions."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import pytest
from torch import nn

from segkit import Registry
from segkit.errors import AmbiguousName, MissingExtra, PluginError, UnknownName, UsageError
from segkit.installed import OWN_DISTRIBUTION, Entry
from segkit.loader import Failure
from segkit.registry import Switches

CARD = """
from segkit import LossCard, ModelCard, hookimpl

def card(name, kind=ModelCard, **more):
    if kind is ModelCard:
        more = {"patch": (8, 8, 8), **more}
    return kind(name=name, **{"factory": __name__ + ":Net", "summary": "for tests", **more})
"""

Plug = Callable[..., Entry]


@pytest.fixture
def plug(tmp_path, monkeypatch) -> Plug:
    """Write a plugin module that returns one card and return its entry."""
    monkeypatch.syspath_prepend(tmp_path)
    numbers = itertools.count()

    def write(source: str = "", card: str = "", hook: str = "segkit_models", **fields: str) -> Entry:
        name = fields.get("name", "net")
        module = f"plug_{tmp_path.name}_{next(numbers)}".replace("-", "_")
        text = f'{CARD}{source}\n@hookimpl\ndef {hook}():\n    return [card("{name}"{card})]\n'
        (tmp_path / f"{module}.py").write_text(text)
        return Entry(
            **{"kind": "model", "name": name, "value": module, "distribution": "acme", "version": "1.0", **fields}
        )

    return write


def entry(distribution: str, name: str = "net", kind: str = "model") -> Entry:
    return Entry(kind, name, "nowhere", distribution, "1.0")


class TestResolve:
    def test_bare_and_qualified_name(self):
        one = entry("acme")
        registry = Registry([one, entry("acme", "other")])
        for name in ("net", "acme:net", "ACME:net"):
            assert registry.resolve("model", name) is one

    def test_name_of_another_kind_is_unknown(self):
        with pytest.raises(UnknownName, match=r"no loss 'net'; known: none"):
            Registry([entry("acme")]).resolve("loss", "net")

    def test_two_third_parties_are_ambiguous(self):
        registry = Registry([entry("b"), entry("a")])
        with pytest.raises(AmbiguousName, match=r"expected one model 'net', 2 .* bring it; use a:net or b:net"):
            registry.resolve("model", "net")
        assert registry.resolve("model", "b:net").distribution == "b"

    def test_built_in_wins_over_any_number_of_others(self):
        registry = Registry([entry("a"), entry("b"), entry(OWN_DISTRIBUTION)])
        assert registry.resolve("model", "net").builtin
        assert [(e.distribution, status) for e, status in registry.list("model")] == [
            (OWN_DISTRIBUTION, "ok"),
            ("a", "shadowed"),
            ("b", "shadowed"),
        ]

    def test_switched_off_is_refused(self):
        registry = Registry([entry("acme")], Switches(disabled=("acme",)))
        with pytest.raises(
            UsageError, match=r"expected model 'net' to be enabled, it is switched off; drop --no-plugin"
        ):
            registry.resolve("model", "net")

    def test_list_is_sorted_by_name_whatever_the_order_of_the_path(self):
        entries = [entry("b", "y"), entry("a", "z"), entry("c", "x")]
        for order in itertools.permutations(entries):
            assert [e.name for e, _ in Registry(order).list("model")] == ["x", "y", "z"]

    @pytest.mark.parametrize("command", ["models", "train"])
    def test_command_named_like_one_of_core_is_shadowed(self, command):
        (row,) = Registry([entry("acme", command, "command")]).list("command")
        assert row[1] == "shadowed"


class TestSwitches:
    def test_command_line_and_environment_are_joined(self):
        environ = {"SEGKIT_PLUGINS": " a, b ,", "SEGKIT_DISABLE_PLUGINS": "c"}
        switches = Switches.from_environment(environ, builtin_only=True, disabled=["d"])
        assert switches == Switches(True, ("a", "b"), ("d", "c"))

    @pytest.mark.parametrize(
        "switches", [Switches(only=("acm",)), Switches(disabled=("acm",))], ids=["only", "disabled"]
    )
    def test_unknown_name_is_refused_with_a_suggestion(self, switches):
        with pytest.raises(UnknownName, match=r"no plugin 'acm'; did you mean 'acme'\?"):
            Registry([entry("acme")], switches)

    def test_empty_lists_forbid_nothing(self):
        assert not Switches.from_environment({"SEGKIT_PLUGINS": "", "SEGKIT_DISABLE_PLUGINS": " ,"}).forbid(entry("a"))


class TestCard:
    def test_healthy_plugin_is_loaded_once(self, plug, capsys):
        registry = Registry([plug('print("imported")')])
        assert registry.card("model", "net") is registry.card("model", "acme:net")
        assert capsys.readouterr() == ("", "imported\n")

    @pytest.mark.parametrize(
        ("plugin", "stage", "error"),
        [
            ({"card": ", kind=LossCard"}, "card", r"expected a list of ModelCard from segkit_models, got a LossCard"),
            ({"card": ', api="2"'}, "card", r"card api '2', this segkit knows 1"),
            ({"card": ", colour=1"}, "call", r"TypeError: .*unexpected keyword argument 'colour'"),
            ({"hook": "segkit_losses"}, "card", r"expected a card named 'net', the hook returned none"),
            ({"source": "import no_such_module"}, "import", r"ModuleNotFoundError: No module named 'no_such_module'"),
            ({"source": "def f(:"}, "import", r"SyntaxError: invalid syntax"),
            (
                {"value": "acme:segkit_models"},
                "import",
                r"expected the name of a module in the entry point 'net', got 'acme:segkit_models': drop what stands",
            ),
        ],
        ids=[
            "card of another kind",
            "api that is no number",
            "unknown field",
            "other hook",
            "import",
            "syntax",
            "a function",
        ],
    )
    def test_plugin_that_fails_names_stage_and_error(self, plug, plugin, stage, error):
        registry = Registry([plug(**plugin)])
        with pytest.raises(
            PluginError, match=rf"expected model 'net' from acme 1\.0, it is \w+ at stage '{stage}': {error}"
        ):
            registry.card("model", "net")

    @pytest.mark.parametrize("factory", ["'acme.network.Net'", "object"])
    def test_factory_that_names_nothing_in_a_module_says_how_to_write_it(self, plug, factory):
        registry = Registry([plug(card=f", factory={factory}")])
        with pytest.raises(
            PluginError, match=r"stage 'factory': TypeError: expected 'package.module:attribute' on the"
        ):
            registry.build("model", "net")

    def test_failure_is_returned_to_who_lists_and_leaves_others_alone(self, plug):
        bad, good = plug("1 / 0"), plug(name="other")
        registry = Registry([bad, good])
        failure = registry.try_card(bad)
        assert isinstance(failure, Failure)
        assert (failure.stage, failure.error) == ("import", "ZeroDivisionError: division by zero")
        assert isinstance(failure.cause, ZeroDivisionError)
        assert registry.card("model", "other").name == "other"

    def test_hook_under_another_name_is_found_by_its_specname(self, plug):
        source = '@hookimpl(specname="segkit_losses")\ndef losses():\n    return [card("loss", LossCard)]\n'
        assert Registry([plug(source)]).card("model", "net").name == "net"


class TestBuildModel:
    NET = """
from torch import nn

class Net(nn.Linear):
    def __init__(self, in_channels, classes, width=1):
        super().__init__(in_channels, classes * width)
"""

    def test_options_reach_the_network(self, plug):
        registry = Registry([plug(self.NET, ', options={"width": 1}')])
        network = registry.build_model("net", 2, 3, {"width": 5})
        assert isinstance(network, nn.Module)
        assert network.out_features == 15

    def test_unknown_option_is_told_the_nearest_one(self, plug):
        registry = Registry([plug(self.NET, ', options={"width": 1}')])
        with pytest.raises(UnknownName, match=r"no option of model net 'widht'; did you mean 'width'\?"):
            registry.build_model("net", 2, 3, {"widht": 5})

    def test_other_number_of_channels_than_the_network_takes(self, plug):
        registry = Registry([plug(self.NET, ", in_channels=2")])
        with pytest.raises(
            UsageError, match=r"expected 2 channels for model 'net', got 3; choose modalities with --modality"
        ):
            registry.build_model("net", 3, 4)

    @pytest.mark.parametrize(
        ("source", "error"),
        [
            ("", r"AttributeError: module 'plug_.*' has no attribute 'Net'"),
            ("Net = lambda: None", r"called with \(1, 2\), TypeError: .*takes 0 positional arguments but 2 were given"),
            ("def Net(i, k):\n    raise SystemExit('no licence')", r"called with \(1, 2\), SystemExit: no licence"),
            ("def Net(i, k):\n    return 'a network'", r"expected a torch\.nn\.Module, got str"),
        ],
        ids=["is not there", "takes other arguments", "exits", "returns no network"],
    )
    def test_factory_that_fails_is_named_with_its_distribution(self, plug, source, error):
        registry = Registry([plug(source)])
        with pytest.raises(
            PluginError, match=rf"from acme 1\.0, it is broken at stage 'factory': {error}; run: segkit pl"
        ):
            registry.build_model("net", 1, 2)

    def test_what_the_network_refuses_by_itself_stays_as_it_is(self, plug):
        source = "from segkit.errors import UsageError\ndef Net(i, k):\n    raise UsageError('expected an even width')"
        with pytest.raises(UsageError, match=r"^expected an even width$"):
            Registry([plug(source)]).build_model("net", 1, 2)

    def test_without_torch_it_says_what_to_install(self, plug, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(MissingExtra, match=r"needs the module 'torch', .* run: pip install \"segkit3d\[train\]\""):
            Registry([plug()]).build_model("net", 1, 2)
