#!/usr/bin/env bash
# Expected: decode(False) on a streamed data set switches the decoding of images and audio off, and changes nothing
# where there is nothing to decode.
# Seen (datasets 5.2.0): on a stream of unknown features, such as one of from_generator, decode(False) raises
# ValueError, although the stream can be read and nothing in it would be decoded.
# Meaning: code that reads calibration data without decoding asks first whether the stream's features are known.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "datasets==5.2.0"
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import datasets
from datasets import Features, IterableDataset, Value

print("datasets", datasets.__version__)


def rows():
    yield {"text": "a"}


def read(**options: object) -> str:
    stream = IterableDataset.from_generator(rows, **options)
    try:
        return str(list(stream.decode(False)))
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


plain = str(list(IterableDataset.from_generator(rows)))
unknown, known = read(), read(features=Features({"text": Value("string")}))
print("expected:", plain)
print("decode(False), features known:", known)
print("decode(False), features unknown:", unknown)
if known != plain or not unknown.startswith("ValueError: Features decoding is only available"):
    sys.exit("The behaviour has changed: see the two lines above.")
PYTHON
