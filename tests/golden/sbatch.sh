#!/bin/bash
# sbatch call 1: 6 runs, digits-resnet8-baseline-s0-da3852a2462f …
# what the script leaves open is filled in on the cluster: a GPU where the
# partition has any, a GPU's share of the node's memory (at most 8,000 MB) and
# cores (at most 4; one without GPUs), and a time that the partition allows

# Parameters
#SBATCH --array=0-5%6
#SBATCH --comment='it'"'"'s mine'
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-node=1
#SBATCH --hold
#SBATCH --job-name=tfkd-SUBMISSION-0001
#SBATCH --mail-type=FAIL
#SBATCH --mem=16384MB
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=/results/submissions/SUBMISSION/array-0001/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=180

# setup
module load cuda/12
export PYTHONPATH=/results/code/TREE${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /results/submissions/SUBMISSION/array-0001/%A_%a_%t_log.out --export=ALL --cpus-per-task=4 python -u -m submitit.core._submit /results/submissions/SUBMISSION/array-0001

# then: scontrol update jobid=1_[2-3] dependency=afterok:1_0
# then: scontrol update jobid=1_[4-5] dependency=afterok:1_1
# then: scontrol release 1
#!/bin/bash
# sbatch call 1: 6 runs, digits-resnet8-baseline-s0-da3852a2462f …
# what the script leaves open is filled in on the cluster: a GPU where the
# partition has any, a GPU's share of the node's memory (at most 8,000 MB) and
# cores (at most 4; one without GPUs), and a time that the partition allows

# Parameters
#SBATCH --array=0-5%2
#SBATCH --comment='it'"'"'s mine'
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-node=1
#SBATCH --hold
#SBATCH --job-name=tfkd-SUBMISSION-0001
#SBATCH --mail-type=FAIL
#SBATCH --mem=16384MB
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=/results/submissions/SUBMISSION/array-0001/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=180

# setup
module load cuda/12
export PYTHONPATH=/results/code/TREE${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /results/submissions/SUBMISSION/array-0001/%A_%a_%t_log.out --export=ALL --cpus-per-task=4 python -u -m submitit.core._submit /results/submissions/SUBMISSION/array-0001

# then: scontrol update jobid=1_[2-3] dependency=afterok:1_0
# then: scontrol update jobid=1_[4-5] dependency=afterok:1_1
# then: scontrol release 1