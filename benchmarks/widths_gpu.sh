#!/usr/bin/env bash
# The widths experiment on one GPU: three networks, two budgets each, and the flat DARTS network, in about ten minutes.
#
#     bash benchmarks/widths_gpu.sh cifar10.npz build/widths-gpu search
#     bash benchmarks/widths_gpu.sh cifar10.npz build/widths-gpu train
#
# First all searches, so many processes at a time as there are cores, each with a search of its own; then all
# trainings, those of a seed side by side. Stopped, the same command goes on. OPTIONS makes it smaller, for a try elsewhere.
set -u
npz=$1 out=$2 what=$3
device=${DEVICE:-cuda} processes=${PROCESSES:-$(($(nproc) - 1))}
export OMP_NUM_THREADS=1
mkdir -p "$out"
small="--side 16 --batch 64"
large="--side 32 --batch 128 --train 50000"
first="worth pairs surface" # own designs: two draws at the first budget, one at the second
others="conet slopes conetv2 reversed"

experiment() {
    # shellcheck disable=SC2086
    python benchmarks/experiment_widths.py --npz "$npz" --work "$out" --device "$device" \
        --rows "$out/rows.jsonl" --found "$out/found.jsonl" "$@" ${OPTIONS:-}
}
export -f experiment
export npz out device

searches() {
    for kind in surface pairs worth; do
        for draw in 0 1; do
            echo "--network resnet20 --base 16 $large --only-search --seeds $draw --kinds $kind"
        done
        echo "--network resnet20 --base 8 $large --only-search --seeds 0 --kinds $kind"
        for place in "resnet8 --base 12 $small" "vgg11 --base 6 $small" "vgg11 --base 9 $small"; do
            echo "--network $place --only-search --seeds 0 --kinds $kind"
        done
    done
    for kind in $others; do
        for place in "resnet20 --base 16 $large" "resnet8 --base 12 $small" "vgg11 --base 6 $small"; do
            echo "--network $place --only-search --seeds 0 --kinds $kind"
        done
    done
}

case $what in
search)
    for place in "resnet20 --base 16 $large" "vgg11 --base 6 $small" "resnet8 --base 12 $small"; do
        # shellcheck disable=SC2086
        experiment --network $place --only-search --seeds 0 --kinds compound || exit 1 # images and files, once
    done
    searches | xargs -P "$processes" -I{} bash -c 'experiment {} > /dev/null 2>> "$out/errors.log"'
    ;;
train)
    # shellcheck disable=SC2086
    {
        experiment --network resnet20 --base 16 $large --seeds 0-7 --kinds compound flat random $first --draws 2
        experiment --network resnet20 --base 8 $large --seeds 0-7 --kinds compound flat random $first --draws 1
        experiment --network resnet20 --base 16 $large --seeds 0-7 --kinds $others --draws 1
    } &
    # shellcheck disable=SC2086
    {
        experiment --network resnet8 --base 12 $small --seeds 0-7 --kinds compound flat random $first $others --draws 1
        experiment --network vgg11 --base 6 $small --seeds 0-7 --kinds compound flat random $first $others --draws 1
        experiment --network vgg11 --base 9 $small --seeds 0-7 --kinds compound flat random $first --draws 1
        experiment --network darts7 --base 4 $small --seeds 0-7 --kinds compound flat --match params
        experiment --network darts7 --base 4 $small --seeds 0-7 --kinds compound flat --match both
    } &
    wait
    ;;
esac
python benchmarks/experiment_widths.py --table --rows "$out/rows.jsonl" --found "$out/found.jsonl"
