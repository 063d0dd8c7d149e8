#!/bin/sh
# Make the environment of this experiment: sparsek, pysindy, and the solver of pysindy's MIOSR.
#
#     sh experiments/07_dynamics/peers.sh FOLDER        # then FOLDER/bin/python experiments/07_dynamics/run.py
#
# gurobipy's free licence refuses problems of more than 2,000 variables or constraints; it is never a dependency of sparsek.
set -eu
cd "$(dirname "$0")/../.."
folder=${1:?folder of the environment}
test -x "$folder/bin/python" || "${PYTHON:-python3.11}" -m venv "$folder"
install="$folder/bin/python -m pip install --quiet --constraint constraints.txt"
$install --editable .[apps] matplotlib pyyaml
$install pysindy==2.1.0 gurobipy==13.0.3
$install --no-deps pints==0.6.1 cma==4.4.0 tabulate==0.9.0
