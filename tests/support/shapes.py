"""Which modules name shapes in their signatures."""

from pathlib import Path


def with_shapes() -> list[str]:
    """The modules whose signatures name shapes: those that import jaxtyping."""
    root = Path(__file__).parents[2]
    homes = {"qsample": "qsample", "models": "qsample.models", "annealers": "qsample.annealers"}
    modules = []
    for folder, package in homes.items():
        for path in sorted((root / folder).rglob("*.py")):
            inner = path.relative_to(root / folder).with_suffix("").parts
            through_link = folder == "qsample" and inner[0] in ("models", "annealers")
            if not through_link and "from jaxtyping import" in path.read_text():
                modules.append(".".join([package, *inner]))
    return modules
