#!/usr/bin/env bash
# The whole chain: curate → train → evaluate. `make demo` calls it.
#
# VIDEOS      folder of real videos; without it, the shards of the toy world (`make toy-data`)
# OUTPUT      where everything goes                        (default outputs/demo, or outputs/demo-real)
# STEPS       training steps                               (default 60)
# THREADS     of each program (default: OMP_NUM_THREADS, else the cores, at most 4; 1 beside other work, threads that wait for
#             each other are slow)
# FACES_ROOT  folder that holds models/<pack>/*.onnx       (default: what lies beside the videos, else ~/.insightface)
# FACES_PACK  name of the pack                             (default: the first one in there)
set -euo pipefail
cd "$(dirname "$0")"

CORES="$(getconf _NPROCESSORS_ONLN)"
export OMP_NUM_THREADS="${THREADS:-${OMP_NUM_THREADS:-$((CORES < 4 ? CORES : 4))}}"

PYTHON="${PYTHON:-.venv/bin/python}"
if [ -n "${VIDEOS:-}" ]; then
    OUTPUT="${OUTPUT:-outputs/demo-real}"
    STEPS="${STEPS:-60}"
    if [ -z "${FACES_ROOT:-}" ]; then
        FACES_ROOT="$VIDEOS/../models/insightface"
        [ -d "$FACES_ROOT/models" ] || FACES_ROOT="$HOME/.insightface"
    fi
    if [ -z "${FACES_PACK:-}" ]; then
        FACES_PACK="$(ls "$FACES_ROOT/models" 2>/dev/null | head -n 1 || true)"
        FACES_PACK="${FACES_PACK:-buffalo_l}"
    fi
    SHARDS="$OUTPUT/dataset"
    faces=(faces=insightface "faces.root=$FACES_ROOT" "faces.pack=$FACES_PACK" faces.det_size=320)
    training=(backbone=tiny training.optimizer.lr=1.0e-3)
    evaluation=(num_identities=3 "prompts=[a person is smiling, a person wearing a red hat]" "systems=[no_adapter,adapter]")

    echo "── 1/3 curate: videos → clip shards"
    "$PYTHON" -m idanim.curate "input=$VIDEOS" "output=$SHARDS" "${faces[@]}" \
        clip.size=64 clip.max_frames=32 sampling.detect_fps=1 shards.val_fraction=0.25
else
    OUTPUT="${OUTPUT:-outputs/demo}"
    STEPS="${STEPS:-60}"
    SHARDS=data/toy/shards
    faces=(faces=toy)
    # The recipe of the paper, but for a larger batch.
    training=(data.batch_size=8 training.ema_decay=0.95 previews.num_identities=1)
    evaluation=(num_identities=10 num_strangers=100 sampling.num_inference_steps=12 batch_size=4 "systems=[no_adapter,init,adapter]")
fi

echo "── 2/3 train: random reference training of the face adapter, $STEPS steps"
"$PYTHON" train.py experiment=random_ref "data.shards=$SHARDS" "output=$OUTPUT/train" "${training[@]}" "${faces[@]}" \
    "trainer.max_steps=$STEPS" \
    every_n_steps.log=5 every_n_steps.id_token_share=20 every_n_steps.validate=50 every_n_steps.preview=1000

echo "── 3/3 evaluate: a grid of people × prompts, generated and scored"
"$PYTHON" evaluate.py "ckpt=$OUTPUT/train/adapter.safetensors" "output=$OUTPUT/evaluation" "${faces[@]}" "${evaluation[@]}"

echo
echo "dataset     $SHARDS/report.html"
echo "adapter     $OUTPUT/train/adapter.safetensors, loss curve $OUTPUT/train/curves.png"
echo "evaluation  $OUTPUT/evaluation/report.html, report.md, videos $OUTPUT/evaluation/videos/"

if [ -n "${VIDEOS:-}" ]; then
    echo
    echo "The backbone of this demo has random weights: it generates no faces, so its similarity is 0 by definition."
    echo "next        the same with more steps: make demo VIDEOS=$VIDEOS STEPS=1000"
else
    echo "next        train for longer: make demo STEPS=1000"
    echo "            another video:    $PYTHON -m idanim.generate ckpt=$OUTPUT/train/adapter.safetensors"
    echo "similarity of people the adapter has never seen, on a scale from strangers (0) to real videos of the person (1):"
    "$PYTHON" - "$OUTPUT/evaluation/metrics.json" <<'PY'
import json, sys

position = json.load(open(sys.argv[1]))["summary"]["normalised_similarity"]["mean"]
print("position", "none: no face was seen" if position is None else f"{position:.2f}")
PY
fi
