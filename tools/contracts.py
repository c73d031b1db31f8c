"""The contract of import-linter that is derived from the list of features."""

from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output

from worker.core import CORE
from worker.feature import Feature
from worker.features import FEATURES, NAMES

SHARED = "shared"
"""The package of what several features use, and the core does not."""

_BY_NAME = {feature.name: feature for feature in FEATURES}


def owner(module: str) -> str:
    """Return the name of the feature that a module belongs to, "shared", or that of the core."""
    room = module.split(".")[1:2]
    return room[0] if room and room[0] in {SHARED, *_BY_NAME} else CORE.name


def all_needs(feature: Feature) -> set[str]:
    """Return the features that a feature needs, and those that they need."""
    return {name for needed in feature.needs for name in (needed, *all_needs(_BY_NAME[needed]))}


class FeatureContract(Contract):
    """The core imports no feature, and a feature only the core and those that it needs.

    What features share imports the core, and the core none of it.

    A module `feature` imports nothing that takes time: reading the list must stay cheap.
    """

    type_name = "features"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002, FBT001 - import-linter's
        """Find the imports that break the contract."""
        broken = []
        for importer in sorted(graph.find_descendants("worker")):
            name = owner(importer)
            allowed = {name, CORE.name}
            if name in NAMES:
                allowed |= {SHARED, *all_needs(_BY_NAME[name])}
            for imported in sorted(graph.find_modules_directly_imported_by(importer)):
                is_ours = imported.startswith("worker.")
                is_light = imported in {"worker.feature", "worker.core", "valetkey.wire"}
                if is_ours and owner(imported) not in allowed:
                    broken.append(f"{importer} imports {imported}, which {name} does not need")
                elif importer.endswith(f".{name}.feature") and not is_light:
                    broken.append(f"{importer} imports {imported}: it may only contain its value")
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print each import that breaks the contract."""
        broken: Any = check.metadata["broken"]
        for line in broken:
            output.print_error(line)
