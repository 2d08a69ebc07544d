#!/bin/bash
# sbatch call 1 of 3: 2 runs, digits-resnet8-baseline-s0-da3852a2462f …

# Parameters
#SBATCH --array=0-1%2
#SBATCH --comment='it'"'"'s mine'
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-node=1
#SBATCH --job-name='tfkd-<id>-0001'
#SBATCH --mail-type=FAIL
#SBATCH --mem=16GB
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output='/results/submissions/<id>/array-0001/%A_%a_0_log.out'
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
srun --unbuffered --output '/results/submissions/<id>/array-0001/%A_%a_%t_log.out' --cpus-per-task=4 python -u -m submitit.core._submit '/results/submissions/<id>/array-0001'

#!/bin/bash
# sbatch call 2 of 3: 2 runs, digits-plain-cnn-kd-from-resnet8-s0-0825e484c5a4 …

# Parameters
#SBATCH --array=0-1%2
#SBATCH --comment='it'"'"'s mine'
#SBATCH --cpus-per-task=4
#SBATCH --dependency='afterok:<1>_0'
#SBATCH --gpus-per-node=1
#SBATCH --job-name='tfkd-<id>-0002'
#SBATCH --mail-type=FAIL
#SBATCH --mem=16GB
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output='/results/submissions/<id>/array-0002/%A_%a_0_log.out'
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
srun --unbuffered --output '/results/submissions/<id>/array-0002/%A_%a_%t_log.out' --cpus-per-task=4 python -u -m submitit.core._submit '/results/submissions/<id>/array-0002'

#!/bin/bash
# sbatch call 3 of 3: 2 runs, digits-plain-cnn-kd-from-resnet8-s0-b6415939f1dd …

# Parameters
#SBATCH --array=0-1%2
#SBATCH --comment='it'"'"'s mine'
#SBATCH --cpus-per-task=4
#SBATCH --dependency='afterok:<1>_1'
#SBATCH --gpus-per-node=1
#SBATCH --job-name='tfkd-<id>-0003'
#SBATCH --mail-type=FAIL
#SBATCH --mem=16GB
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output='/results/submissions/<id>/array-0003/%A_%a_0_log.out'
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
srun --unbuffered --output '/results/submissions/<id>/array-0003/%A_%a_%t_log.out' --cpus-per-task=4 python -u -m submitit.core._submit '/results/submissions/<id>/array-0003'

#!/bin/bash
# sbatch call 1 of 1: 6 runs, digits-resnet8-baseline-s0-da3852a2462f …

# Parameters
#SBATCH --array=0-5%2
#SBATCH --comment='it'"'"'s mine'
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-node=1
#SBATCH --hold
#SBATCH --job-name='tfkd-<id>-0001'
#SBATCH --mail-type=FAIL
#SBATCH --mem=16GB
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output='/results/submissions/<id>/array-0001/%A_%a_0_log.out'
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
srun --unbuffered --output '/results/submissions/<id>/array-0001/%A_%a_%t_log.out' --cpus-per-task=4 python -u -m submitit.core._submit '/results/submissions/<id>/array-0001'
# then: scontrol update jobid=<1>_[2-3] dependency=afterok:<1>_0
# then: scontrol update jobid=<1>_[4-5] dependency=afterok:<1>_1
# then: scontrol release <1>
