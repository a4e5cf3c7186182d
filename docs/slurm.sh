#!/bin/bash
# Pretraining on several machines under Slurm. Fill in data, output and sizes; submit with: sbatch docs/slurm.sh
#SBATCH --job-name=twoviews
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=twoviews-%j.log

set -u
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=170    # seconds for the step under way and for saving, after a signal
DATA=/data/photos          # the same path on every machine
RUN=/shared/runs/photos    # a file system that every machine can read

# The first machine of the job is where the processes find each other.
FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
LAUNCH=(torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE"
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$FIRST:29500" -m twoviews)

if [ -e "$RUN/latest" ]; then
    JOB=(resume "$RUN")
else
    JOB=(pretrain "$DATA" --out "$RUN" --overwrite --batch-size 4096 --epochs 200)
fi

# 180 s before the time is up the batch shell gets SIGTERM: every process saves the same step, and the job queues again.
srun --kill-on-bad-exit=1 "${LAUNCH[@]}" "${JOB[@]}" &
STEP=$!
requeue() {
    scancel --signal=TERM "$SLURM_JOB_ID"
    wait "$STEP"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap requeue TERM
wait "$STEP"
