#!/bin/bash
# A search on Slurm: sbatch deploy/slurm.sh
# It goes on by itself when a node fails, and otherwise by RUN=runs/kdnas-JOB sbatch deploy/slurm.sh
#SBATCH --job-name=kdnas
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# An environment that all nodes see.
source "${KDNAS_ENV:-$HOME/kdnas-env}/bin/activate"

# Others can reach the ports of Ray; without the token in ~/.ray, which is yours alone, they can do nothing there.
export RAY_AUTH_MODE=token
(umask 077 && ray get-auth-token --generate > /dev/null)

# A requeued job keeps its number. The folder lies on storage that all nodes see.
run=${RUN:-runs/kdnas-$SLURM_JOB_ID}
workers=$((SLURM_JOB_NUM_NODES * SLURM_CPUS_PER_TASK))

# The first node is the head, and the one where the search runs; some take long to import Ray from shared storage.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  ray symmetric-run --address "$SLURMD_NODENAME:6379" \
  --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "$SLURM_CPUS_PER_TASK" -- \
  kdnas search "$([ -e "$run/config.json" ] && echo --resume || echo --out)" "$run" \
  --budget 64 --round-size 8 --threads 1 --ray auto --workers "$workers"
