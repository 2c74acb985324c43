"""Puts what Envoy Gateway made beside a hash of what it was made from, so that a fixture that is out of date is known as one.

Usage: gateway_fixture.py VERSION XDS.json INPUT...
"""

import hashlib
import json
import pathlib
import sys


def main(version, made, *inputs):
    # Bytes, one input after the other: the test does the same.
    digest = hashlib.sha256(b"".join(pathlib.Path(name).read_bytes() for name in inputs)).hexdigest()
    xds = json.loads(pathlib.Path(made).read_text(encoding="utf-8"))
    json.dump({"gateway": version, "inputs_sha256": digest, **xds}, sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")


main(*sys.argv[1:])
