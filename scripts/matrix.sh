#!/bin/sh
# The tests under several versions of Python and torch, each in an environment of its own that is removed afterwards.
#
#   scripts/matrix.sh               Python 3.11 with torch 2.13.0
#   MATRIX=full scripts/matrix.sh   adds Python 3.12, and torch 2.6.0: downloads of several GB
#   TESTS="tests/nn -x" …           fewer tests
set -eu

cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

run() {
  name="python$1-torch$2"
  if ! "python$1" --version > /dev/null 2>&1; then
    echo "== $name: not run, there is no python$1"
    missing=1
    return
  fi
  echo "== $name"
  "python$1" -m venv "$place/$name"
  sed "s/^torch==.*/torch==$2/" constraints.txt > "$place/constraints.txt"
  "$place/$name/bin/python" -m pip install --quiet --constraint "$place/constraints.txt" --editable '.[dev]'
  # shellcheck disable=SC2086  # several words
  "$place/$name/bin/python" -m pytest -q ${TESTS:-}
  rm -rf "${place:?}/$name"
}

missing=0
run 3.11 2.13.0
if [ "${MATRIX:-}" = full ]; then
  run 3.12 2.13.0
  run 3.11 2.6.0
  run 3.12 2.6.0
fi
exit "$missing"
