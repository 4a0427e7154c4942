#!/usr/bin/env bash
# The whole chain: curate → train → evaluate. `make demo` calls it.
#
# VIDEOS      folder of real videos; without it, people of the toy world are filmed
# OUTPUT      where everything goes                        (default outputs/demo, or outputs/demo-toy)
# STEPS       training steps                               (default 60)
# FACES_ROOT  folder that holds models/<pack>/*.onnx       (default: what lies beside the videos, else ~/.insightface)
# FACES_PACK  name of the pack                             (default: the first one in there)
set -euo pipefail
cd "$(dirname "$0")"

PYTHON="${PYTHON:-.venv/bin/python}"
STEPS="${STEPS:-60}"
if [ -n "${VIDEOS:-}" ]; then
    OUTPUT="${OUTPUT:-outputs/demo}"
    if [ -z "${FACES_ROOT:-}" ]; then
        FACES_ROOT="$VIDEOS/../models/insightface"
        [ -d "$FACES_ROOT/models" ] || FACES_ROOT="$HOME/.insightface"
    fi
    if [ -z "${FACES_PACK:-}" ]; then
        FACES_PACK="$(ls "$FACES_ROOT/models" 2>/dev/null | head -n 1 || true)"
        FACES_PACK="${FACES_PACK:-buffalo_l}"
    fi
    faces=("faces.root=$FACES_ROOT" "faces.pack=$FACES_PACK" "faces.det_size=320")
    curation=(clip.size=64 clip.max_frames=32 sampling.detect_fps=1)
    world=(backbone=tiny)
    truth="The backbone of this demo has random weights: it generates no faces, so its similarity is 0 by definition."
    again="VIDEOS=$VIDEOS "
else
    OUTPUT="${OUTPUT:-outputs/demo-toy}"
    VIDEOS="$OUTPUT/videos"
    faces=(faces=toy)
    curation=(clip.size=32 clip.num_frames=8 clip.max_frames=8 filter.min_face_px=8)
    world=(backbone=toy)
    truth="The toy backbone draws people; an adapter trained from scratch for $STEPS steps does not yet draw the right one."
    again=""
    echo "── 0/3 film people of the toy world"
    [ -d "$VIDEOS" ] || "$PYTHON" -m idanim.toyworld.make_videos "$VIDEOS" --people 24 --clips 2
fi

echo "── 1/3 curate: videos → clip shards"
"$PYTHON" -m idanim.curate "input=$VIDEOS" "output=$OUTPUT/dataset" "${faces[@]}" "${curation[@]}" \
    shards.val_fraction=0.25

echo "── 2/3 train: random reference training of the face adapter, $STEPS steps"
"$PYTHON" train.py experiment=random_ref "data.shards=$OUTPUT/dataset" "output=$OUTPUT/train" "${world[@]}" "${faces[@]}" \
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
echo "$truth"
echo "next        the same with more steps: make demo ${again}STEPS=1000"
