#!/usr/bin/env bash
# The widths experiment on one GPU: ResNet-20, all 50,000 images of 32 pixels, in under 12 minutes.
#
#     bash benchmarks/widths_gpu.sh cifar10.npz build/widths-gpu
#
# Eight processes share the GPU, one a seed, each with rows of its own; what has a row is not done again. The first
# two search while the others train; then all train what was found. OPTIONS makes it smaller, for a try elsewhere.
set -u
npz=$1 out=$2
options=${OPTIONS:---train 50000 --side 32 --epochs 12 --batch 256 --device cuda --base 16}
minutes=${MINUTES:-5}
export OMP_NUM_THREADS=1
mkdir -p "$out"
piece() { # seed, minutes, kinds
    seed=$1 limit=$2
    shift 2
    # shellcheck disable=SC2086
    python benchmarks/experiment_widths.py --npz "$npz" --work "$out" --network resnet20 $options \
        --rows "$out/rows-$seed.jsonl" --found "$out/found.jsonl" --minutes "$limit" --seeds "$seed" --kinds "$@"
}
piece 0 0 compound || exit 1 # the images and the network's file, once
piece 0 "$minutes" worth & piece 1 "$minutes" worth &
piece 2 "$minutes" compound flat random & piece 3 "$minutes" compound flat random &
piece 4 "$minutes" pairs & piece 5 "$minutes" pairs &
piece 6 "$minutes" compound flat random & piece 7 "$minutes" compound flat random &
wait
for seed in 0 1 2 3 4 5 6 7; do
    piece "$seed" "$minutes" compound worth pairs flat random &
done
wait
cat "$out"/rows-*.jsonl > "$out/rows.jsonl"
python benchmarks/experiment_widths.py --table --rows "$out/rows.jsonl" --found "$out/found.jsonl"
