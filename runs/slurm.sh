#!/usr/bin/env bash
#SBATCH --job-name=nanoloss --array=0-9 --cpus-per-task=2 --mem=4G --time=04:00:00 --output=slurm-%A_%a.log
# The seeds and configs of a comparison as an array job, a task and a folder each. Data and .venv must be there.
#   sbatch runs/slurm.sh                                                 bce and ce, seeds 0 to 4
#   sbatch --array=0-29 --gres=gpu:1 runs/slurm.sh bce ce sample_bce     these three, seeds 0 to 9, on GPUs
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
source .venv/bin/activate

configs=("$@")
[ $# -gt 0 ] || configs=(bce ce)
task=${SLURM_ARRAY_TASK_ID:?give this to sbatch}
python train.py "config/${configs[task % ${#configs[@]}]}.py" --seed=$((task / ${#configs[@]}))
