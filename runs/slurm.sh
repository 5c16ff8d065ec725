#!/usr/bin/env bash
#SBATCH --job-name=nanoloss --array=0-9 --cpus-per-task=2 --mem=4G --time=04:00:00
#SBATCH --output=slurm-%A_%a.log
# The seeds and configs of a comparison as an array job: each is a task with a folder of its own.
# The data and .venv must exist.
#   sbatch runs/slurm.sh                  bce and ce, seeds 0 to 4
#   sbatch --array=0-29 --gres=gpu:1 runs/slurm.sh bce ce focal
#                                         these three, seeds 0 to 9, on GPUs
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
source .venv/bin/activate

configs=("$@")
if [ $# -eq 0 ]; then
    configs=(bce ce)
fi
task=${SLURM_ARRAY_TASK_ID:?give this script to sbatch}

# tasks 0, 1, 2, 3 ... are bce seed 0, ce seed 0, bce seed 1, ce seed 1 ...
config=${configs[task % ${#configs[@]}]}
seed=$((task / ${#configs[@]}))
python train.py "config/$config.py" --seed=$seed
