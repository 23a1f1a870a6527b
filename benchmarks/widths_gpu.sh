#!/usr/bin/env bash
# The widths experiment on one GPU: ResNet-20 on all images, resnet8 and VGG-11, and flat DARTS networks.
#
#     bash benchmarks/widths_gpu.sh cifar10.npz build/widths-gpu search 1800
#     bash benchmarks/widths_gpu.sh cifar10.npz build/widths-gpu train
#
# First all searches, for so many seconds at most; then all trainings of what they found, those of a seed side by
# side. Stopped, the same command goes on. Few searches run at a time: processes that share a GPU take turns, and
# fifteen finished none in four minutes. OPTIONS makes it smaller, for a try elsewhere (DEVICE=cpu).
set -u
npz=$1 out=$2 what=$3 seconds=${4:-86400}
device=${DEVICE:-cuda} processes=${PROCESSES:-3}
export OMP_NUM_THREADS=1
mkdir -p "$out"
small="--side 16 --batch 64"
large="--side 32 --train 50000"
ours="surface pairs worth"
others="conet slopes conetv2 reversed"

experiment() {
    # shellcheck disable=SC2086
    python3 benchmarks/experiment_widths.py --npz "$npz" --work "$out" --device "$device" \
        --rows "$out/rows.jsonl" --found "$out/found.jsonl" "$@" ${OPTIONS:-}
}
export -f experiment
export npz out device

searches() { # the longest first
    for kind in $ours; do
        for draw in 0 1; do
            echo "--network resnet20 --base 16 $large --batch 128 --seeds $draw --kinds $kind"
        done
        for place in "resnet20 --base 8 $large --batch 128" \
            "resnet8 --base 12 $small" "vgg11 --base 6 $small" "vgg11 --base 9 $small"; do
            echo "--network $place --seeds 0 --kinds $kind"
        done
    done
    for kind in $others; do
        for place in "resnet8 --base 12 $small" "vgg11 --base 6 $small" "resnet20 --base 16 $large --batch 128"; do
            echo "--network $place --seeds 0 --kinds $kind"
        done
    done
}

# shellcheck disable=SC2086
case $what in
search)
    for place in "resnet20 $large" "vgg11 $small" "resnet8 $small"; do
        experiment --network $place --only search --seeds 0 --kinds compound || exit 1 # the images, once
    done
    searches | timeout "$seconds" xargs -P "$processes" -I{} \
        bash -c 'experiment --only search {} > /dev/null 2>> "$out/errors.log"'
    ;;
train)
    train() { experiment --only train "$@"; }
    {
        train --network resnet20 --base 16 $large --batch 256 --epochs 8 --kinds compound flat random $ours
        train --network resnet20 --base 8 $large --batch 256 --epochs 8 --draws 1 --kinds compound $ours
        train --network resnet20 --base 16 $large --batch 256 --epochs 8 --draws 1 --kinds $others --seeds 0-3
    } &
    {
        train --network resnet8 --base 12 $small --draws 1 --kinds compound flat random $ours $others
        train --network vgg11 --base 6 $small --draws 1 --kinds compound flat random $ours $others
        train --network darts7 --base 4 $small --batch 128 --kinds compound flat --match params --seeds 0-5
        train --network darts7 --base 4 $small --batch 128 --kinds compound flat --match both --seeds 0-5
        train --network vgg11 --base 9 $small --draws 1 --kinds compound $ours
    } &
    wait
    ;;
esac
python3 benchmarks/experiment_widths.py --table --rows "$out/rows.jsonl" --found "$out/found.jsonl"
