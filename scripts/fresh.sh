#!/bin/sh
# Does a stranger's machine run what the README says? Clones the repository into an empty folder, with an empty home and no cache, and runs
# the README's two commands and its examples. Only the package client's settings (PIP_*) and OMP_NUM_THREADS, for machines with other
# work to do, are kept.
#
#   scripts/fresh.sh            the committed state of this repository
#   FRESH=demo scripts/fresh.sh only `make demo`
set -eu

source=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir "$place/home" "$place/tmp"
git clone --quiet --no-local "$source" "$place/sparsek"
cd "$place/sparsek"

clean() {
  for name in $(env | sed -nE 's/^(PIP_[A-Z0-9_]*|OMP_NUM_THREADS)=.*/\1/p'); do
    eval "value=\$$name"
    set -- "$name=$value" "$@"
  done
  env -i HOME="$place/home" TMPDIR="$place/tmp" PATH="$PATH" LANG=C.UTF-8 PIP_NO_CACHE_DIR=1 "$@"
}

step() {
  begun=$(date +%s)
  echo "== $*"
  clean "$@"
  echo "== $* passed in $(($(date +%s) - begun)) s"
}

first=$(date +%s)
step make demo
if [ "${FRESH:-all}" = all ]; then
  step make test
  step make examples
fi
echo "fresh machine: passed in $(($(date +%s) - first)) s"
