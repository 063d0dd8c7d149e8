#!/bin/sh
# An environment for each peer: FOLDER/saelens, FOLDER/dictionary_learning and FOLDER/sparsify (benchmarks/sae_step.py times it),
# with torch as constraints.txt says. None gets torchvision or torchaudio: peers are installed without dependencies that pull them in.
# sh experiments/02_sae/peers.sh FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
pins="$here/../../constraints.txt"
python=${PYTHON:-python3.11}

environment() {  # folder, then packages
  folder=$1; shift
  test -x "$folder/bin/python" || "$python" -m venv "$folder"
  "$folder/bin/python" -m pip install --quiet --constraint "$pins" torch numpy safetensors transformers accelerate pandas tqdm einops \
    wandb datasets "$@"
}

environment "$1/saelens" jaxtyping beartype fancy-einsum rich better-abc typeguard plotly simple-parsing tenacity python-dotenv nltk \
  sentencepiece transformers-stream-generator
"$1/saelens/bin/python" -m pip install --quiet --no-deps sae-lens==6.54.12 "transformer-lens>=2.16.1,<4" plotly-express babe

environment "$1/dictionary_learning" zstandard python-socketio protobuf msgspec ipython pillow
"$1/dictionary_learning/bin/python" -m pip install --quiet --no-deps dictionary-learning==0.1.0 "nnsight>=0.3,<0.4"

environment "$1/sparsify" natsort schedulefree simple-parsing psutil
"$1/sparsify/bin/python" -m pip install --quiet --no-deps eai-sparsify==1.3.3
for name in saelens dictionary_learning sparsify; do
  "$1/$name/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio
done
