"""Says what is wrong with bills of materials: by CycloneDX's own validator, and each package URL and licence by those who define
their forms. Prints nothing and ends with 0 where nothing is."""

import json
import pathlib
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from license_expression import ExpressionError, get_spdx_licensing
from packageurl import PackageURL

LICENSING = get_spdx_licensing()


def faults(text):
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        yield error
        return
    bill = json.loads(text)
    components = [bill["metadata"]["component"], *bill["components"]]
    known = {component["bom-ref"] for component in components}
    if len(known) != len(components):
        yield "two components have one bom-ref"
    for component in components:
        if "purl" in component:
            try:
                PackageURL.from_string(component["purl"])
            except ValueError as error:
                yield error
        for choice in component["licenses"]:
            expression = choice.get("expression") or choice["license"]["id"]
            try:
                LICENSING.parse(expression, validate=True)
            except ExpressionError as error:
                yield error
    for dependency in bill["dependencies"]:
        for reference in [dependency["ref"], *dependency.get("dependsOn", [])]:
            if reference not in known:
                yield f"{reference} is depended on or depends, and is no component"


def main():
    found = False
    for path in sys.argv[1:]:
        for fault in faults(pathlib.Path(path).read_text(encoding="utf-8")):
            print(f"{path}: {fault}")
            found = True
    sys.exit(1 if found else 0)


main()
