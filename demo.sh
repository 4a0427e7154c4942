#!/usr/bin/env bash
# The whole chain on a folder of videos: curate → train → evaluate. `make demo VIDEOS=<folder>` calls it.
#
# VIDEOS      folder of videos
# OUTPUT      where everything goes                        (default outputs/demo)
# STEPS       training steps                               (default 60)
# FACES_ROOT  folder that holds models/<pack>/*.onnx       (default: what lies beside the videos, else ~/.insightface)
# FACES_PACK  name of the pack                             (default: the first one in there)
set -euo pipefail
cd "$(dirname "$0")"

PYTHON="${PYTHON:-.venv/bin/python}"
OUTPUT="${OUTPUT:-outputs/demo}"
STEPS="${STEPS:-60}"
if [ -z "${VIDEOS:-}" ]; then
    echo "error: name a folder of videos: make demo VIDEOS=<folder>" >&2
    exit 2
fi
if [ -z "${FACES_ROOT:-}" ]; then
    FACES_ROOT="$VIDEOS/../models/insightface"
    [ -d "$FACES_ROOT/models" ] || FACES_ROOT="$HOME/.insightface"
fi
if [ -z "${FACES_PACK:-}" ]; then
    FACES_PACK="$(ls "$FACES_ROOT/models" 2>/dev/null | head -n 1 || true)"
    FACES_PACK="${FACES_PACK:-buffalo_l}"
fi
faces=("faces.root=$FACES_ROOT" "faces.pack=$FACES_PACK" "faces.det_size=320")

echo "── 1/3 curate: videos → clip shards"
"$PYTHON" -m idanim.curate "input=$VIDEOS" "output=$OUTPUT/dataset" "${faces[@]}" \
    clip.size=64 clip.max_frames=32 sampling.detect_fps=1 shards.val_fraction=0.25

echo "── 2/3 train: random reference training of the face adapter, $STEPS steps"
"$PYTHON" train.py experiment=random_ref "data.shards=$OUTPUT/dataset" "output=$OUTPUT/train" "${faces[@]}" \
    "trainer.max_steps=$STEPS" training.optimizer.lr=1.0e-3 \
    every_n_steps.log=5 every_n_steps.id_token_share=20 every_n_steps.validate=20 every_n_steps.preview=60

echo "── 3/3 evaluate: a grid of people × prompts, generated and scored"
"$PYTHON" evaluate.py "ckpt=$OUTPUT/train/adapter.safetensors" "output=$OUTPUT/evaluation" "${faces[@]}" \
    num_identities=3 "prompts=[a person is smiling, a person wearing a red hat]" baseline=true

echo
echo "dataset     $OUTPUT/dataset/report.md"
echo "adapter     $OUTPUT/train/adapter.safetensors, loss curve $OUTPUT/train/curves.png"
echo "evaluation  $OUTPUT/evaluation/report.md, pictures $OUTPUT/evaluation/grid.png"
echo
echo "The backbone of this demo has random weights: it generates no faces, so its similarity is 0 by definition."
echo "next        the same with more steps: make demo VIDEOS=$VIDEOS STEPS=1000"
