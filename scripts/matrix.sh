#!/bin/sh
# The tests under several versions of Python and torch, each in an environment of its own that is removed afterwards.
#
#   scripts/matrix.sh                      Python 3.11 with torch 2.13.0
#   MATRIX=full scripts/matrix.sh          adds Python 3.12, and torch 2.6.0: downloads of several GB
#   MATRIX="3.12:2.13.0 3.11:2.6.0" …      these alone
#   TESTS="tests/nn -x" …                  fewer tests
#
# All are run, whatever one says; what each said stands at the end, and the status is 1 unless all passed.
set -eu

cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

tests() {  # of Python $1 with torch $2, in folder $3
  "python$1" -m venv "$3" &&
    sed "s/^torch==.*/torch==$2/" constraints.txt > "$place/constraints.txt" &&
    "$3/bin/python" -m pip install --quiet --constraint "$place/constraints.txt" --editable '.[dev]' &&
    # shellcheck disable=SC2086  # several words
    "$3/bin/python" -m pytest -q ${TESTS:-}
}

case "${MATRIX:-}" in
  "") pairs="3.11:2.13.0" ;;
  full) pairs="3.11:2.13.0 3.12:2.13.0 3.11:2.6.0 3.12:2.6.0" ;;
  *) pairs=$MATRIX ;;
esac

status=0
for pair in $pairs; do
  python=${pair%%:*} torch=${pair#*:} begun=$(date +%s)
  echo "== Python $python, torch $torch"
  if ! "python$python" --version > /dev/null 2>&1; then
    said="not run: there is no python$python" status=1
  elif tests "$python" "$torch" "$place/environment"; then
    said="passed in $(($(date +%s) - begun)) s"
  else
    said="failed" status=1
  fi
  rm -rf "$place/environment"
  echo "Python $python, torch $torch: $said" >> "$place/said"
done
cat "$place/said"
exit "$status"
