"""Where runs are executed: in this process, on all cores, or on a Ray cluster.

An engine is a function that opens a :class:`Pool` of workers. The driver gives a pool one job after another and takes
back what is finished; it alone decides what is done next, and it alone writes to the store.
"""

from torchgraft.lab.engines.cores import cores
from torchgraft.lab.engines.inline import inline
from torchgraft.lab.engines.jobs import Engine, Failure, Finished, Job, Options, Pool, Work
from torchgraft.lab.engines.ray import ray

__all__ = ["ENGINES", "Engine", "Failure", "Finished", "Job", "Options", "Pool", "Work"]

ENGINES: dict[str, Engine] = {
    "inline": inline,
    "cores": cores,
    "ray": ray,
}
