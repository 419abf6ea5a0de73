"""Names of ONNX nodes that say where in the network they come from.

`encoder.0.1/Conv` is the convolution of the module `encoder.0.1`; `/Concat` is what the network itself does between its
modules. What the exporter notes beside a node is stripped from the file, since it holds paths of this machine.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from segkit.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch notes the modules around a node, outermost first, and at last the node itself."""

_RULES, _FOLDED = "pkg.onnxscript.rewriter.rule_name", "FuseBatchNorm"
"""Where the exporter notes what it made of a node, and how it calls the folding of a norm."""


def name_nodes(model: onnx_ir.Model) -> None:
    """Rename the nodes of a graph, in place, to the path of their module and their operator.

    A second node of the same module and operator gets `_2`, and so on.
    """
    seen: Counter[str] = Counter()
    for node in model.graph:
        name = f"{_path(node)}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def _path(node: onnx_ir.Node) -> str:
    if _FOLDED in node.metadata_props.get(_RULES, ""):
        # It stands where the norm stood and has its notes; whose convolution it is, the name of the weights says.
        return str(node.inputs[1].name).rpartition(".")[0]
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    return str(scopes[-2]) if len(scopes) > 1 else ""


def module_path(name: str) -> str:
    """The path of the module that a node of this name belongs to; empty for the network itself."""
    return name.partition("/")[0] if "/" in name else ""


def select_nodes(names: Iterable[str], islands: Collection[str]) -> set[str]:
    """The nodes that islands are made of.

    Args:
        names: of all nodes of a graph.
        islands: paths of modules, each of which stands for all that is inside it, or names of single nodes.

    Raises:
        UsageError: an island is neither.
    """
    names = list(names)
    found: set[str] = set()
    for island in islands:
        inside = {name for name in names if name == island or _is_inside(module_path(name), island)}
        if not inside:
            some = ", ".join(sorted({module_path(name) for name in names} - {""})[:5]) or "none"
            raise UsageError(
                f"expected islands that are modules of the network, got {island!r}", hint=f"its modules are: {some} ..."
            )
        found |= inside
    return found


def _is_inside(path: str, island: str) -> bool:
    return bool(path) and (path == island or path.startswith(f"{island}."))
