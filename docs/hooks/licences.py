"""Write the licences of all installed distributions as a page: ``python docs/hooks/licences.py > docs/licences.md``."""

from importlib.metadata import Distribution, distributions

_CLASSIFIER = "License :: OSI Approved :: "


def licence(distribution: Distribution) -> str:
    """Return what a distribution's own metadata says, as an SPDX expression where it has one."""
    told = distribution.metadata
    if expression := told.get("License-Expression"):
        return expression
    if classified := [one.removeprefix(_CLASSIFIER) for one in told.get_all("Classifier") or [] if _CLASSIFIER in one]:
        return "; ".join(classified)
    return (told.get("License") or "not told").strip().splitlines()[0][:80]


def page() -> str:
    """Return the page, a row for each distribution but SERM itself."""
    found = {one.metadata["Name"]: one for one in distributions() if one.metadata["Name"] != "serm"}
    rows = (f"| {name} | {found[name].version} | {licence(found[name])} |" for name in sorted(found, key=str.lower))
    return "\n".join(
        [
            "# Licences",
            "",
            "What `make install` brings, tools of developers included, by each package's own metadata; the images hold",
            "less. SERM itself is under Apache-2.0. Written by `make licences`.",
            "",
            "| package | version | licence |",
            "|---|---|---|",
            *rows,
        ]
    )


if __name__ == "__main__":
    print(page())
