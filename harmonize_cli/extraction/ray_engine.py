"""The same tasks on a Ray cluster: decode actors on its CPUs, encode actors for big models on its GPUs.

All machines see the manifest's files and the store under the same paths. A shard is written by one actor
and is complete or not there: an actor or a machine that dies costs its shard at hand; others make it again.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from harmonize_cli.encoders.base import ENCODERS, Encoder, FrameEncoder, SoundEncoder
from harmonize_cli.encoders.registry import build_encoders
from harmonize_cli.encoders.tokens import Vocab
from harmonize_cli.errors import HarmonizeError, missing_extra
from harmonize_cli.extraction.counts import Counts
from harmonize_cli.extraction.tasks import ShardTask, write_shard
from harmonize_cli.extraction.unit import Job, UnitRunner
from harmonize_cli.media.requests import Request
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec

_TRIES = 5


class EncodeActor:
    """Holds the big models on one GPU (or CPU) and encodes what decode actors send."""

    def __init__(self, job: Job, names: Sequence[str]) -> None:
        self._encoders = {
            name: {e.spec.key: e for e in build_encoders([name], job.config, _vocab(job))} for name in names
        }

    def describe(self) -> dict[str, list["Described"]]:
        """What a stand-in needs to know of the encoders of each name."""
        return {
            name: [
                (_stand_in(e), e.spec, getattr(e, "request", None), getattr(e, "batch", 0))
                for e in encoders.values()
            ]
            for name, encoders in self._encoders.items()
        }

    def encode(self, key: str, method: str, values: Any) -> Any:
        """Frames uint8 [N, H, W, C], audio float32 [S] or a list of texts to rows."""
        (encoder,) = (found[key] for found in self._encoders.values() if key in found)
        return getattr(encoder, method)(values)


class StandIn:
    """Has the description of an encoder that lives in encode actors, and sends work to them in turn, past
    those that died."""

    def __init__(self, actors: Sequence[Any], spec: FeatureSpec, request: Request | None, batch: int) -> None:
        self._actors, self._next = list(actors), 0
        self.spec, self.request, self.batch = spec, request, batch

    def call(self, method: str, values: Any) -> Any:
        """What `method` of the encoder makes of `values`."""
        import ray

        for _ in range(_TRIES * len(self._actors)):
            self._next = (self._next + 1) % len(self._actors)
            try:
                return ray.get(self._actors[self._next].encode.remote(self.spec.key, method, values))
            except ray.exceptions.RayActorError:
                continue  # it is started again by Ray; meanwhile the next one
        raise HarmonizeError(f"{self.spec.key}: no encode actor of the cluster answers")


class RemoteFrames(StandIn):
    """Stands in for a frame encoder."""

    def encode_frames(self, frames: npt.NDArray[np.uint8]) -> Any:
        """uint8 [N, H, W, C] to N rows."""
        return self.call("encode_frames", frames)


class RemoteSound(StandIn):
    """Stands in for an audio encoder."""

    def encode_sound(self, wave: npt.NDArray[np.float32]) -> Any:
        """float32 [S] to [T, *row_shape]."""
        return self.call("encode_sound", np.asarray(wave))


class RemoteTexts(StandIn):
    """Stands in for a text encoder."""

    def encode_texts(self, texts: Sequence[str]) -> Any:
        """C texts to [C, *row_shape]."""
        return self.call("encode_texts", list(texts))


Described = tuple[type[StandIn], FeatureSpec, Request | None, int]


def _stand_in(encoder: Encoder) -> type[StandIn]:
    if isinstance(encoder, FrameEncoder):
        return RemoteFrames
    return RemoteSound if isinstance(encoder, SoundEncoder) else RemoteTexts


def _vocab(job: Job) -> Vocab | None:
    return Vocab(job.words) if job.words is not None else None


class DecodeActor:
    """Decodes, encodes what is cheap here, sends the rest to encode actors, writes shards."""

    def __init__(self, job: Job, actors: Sequence[Any], described: Mapping[str, Sequence[Described]]) -> None:
        self._runner = UnitRunner(job, cluster_encoders(job, actors, described))

    def write(self, task: ShardTask) -> Counts:
        """Do one task."""
        return write_shard(self._runner, task)


def cluster_encoders(
    job: Job, actors: Sequence[Any], described: Mapping[str, Sequence[Described]]
) -> list[Encoder]:
    """The job's encoders in the order of its config, big models as stand-ins."""
    found: list[Encoder] = []
    for name in job.config.encoders:
        if name in described:
            found += [
                cast(Encoder, stand_in(actors, spec, request, batch))
                for stand_in, spec, request, batch in described[name]
            ]
        else:
            found += build_encoders([name], job.config, _vocab(job))
    return found


class RayCluster:
    """Actors on the cluster that `address` names ("auto": the one of this machine; None: start a local one).

    Raises:
        BadInput: Ray is not installed.
    """

    def __init__(self, address: str | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise missing_extra("ray", "ray", "--engine ray") from None
        self._ray = ray
        if not ray.is_initialized():
            try:
                ray.init(address=address, log_to_driver=False)
            except ConnectionError as e:
                raise HarmonizeError(f"--ray-address {address}: no Ray cluster there ({e})") from None

    def start_encoders(self, job: Job) -> None:
        """Start encode actors, one a GPU (one on a CPU where there is none), if the job has big models."""
        self._job = job
        self._encode: list[Any] = []
        self._described: dict[str, list[Described]] = {}
        names = [name for name in job.config.encoders if ENCODERS.split(name)[0].heavy]
        if names:
            gpus = int(self._ray.cluster_resources().get("GPU", 0))
            options = {"num_gpus": 1} if gpus else {"num_cpus": 0}
            actor = self._ray.remote(max_restarts=_TRIES, **options)(EncodeActor)
            self._encode = [actor.remote(job, names) for _ in range(max(1, gpus))]
            self._described = self._ray.get(self._encode[0].describe.remote())

    def runner(self) -> UnitRunner:
        """A runner with the job's features, without loading the big models here."""
        return UnitRunner(self._job, cluster_encoders(self._job, self._encode, self._described))

    def run(self, tasks: Sequence[ShardTask], workers: int) -> Iterator[Counts]:
        """Counts of each task as it is done. `workers` <= 1 takes all CPUs of the cluster.

        Raises:
            HarmonizeError: a task failed again and again because its actors died.
        """
        exceptions = self._ray.exceptions
        cpus = int(self._ray.cluster_resources().get("CPU", 1))
        actor = self._ray.remote(num_cpus=1)(DecodeActor)
        left = list(reversed(tasks))
        tries: dict[str, int] = {}
        running: dict[Any, tuple[ShardTask, Any]] = {}

        def submit(worker: Any | None = None) -> None:
            task = left.pop()
            worker = worker if worker is not None else actor.remote(self._job, self._encode, self._described)
            running[worker.write.remote(task)] = (task, worker)

        for _ in range(min(len(left), workers if workers > 1 else max(1, cpus))):
            submit()
        while running:
            (ready, *_), _ = self._ray.wait(list(running), num_returns=1)
            task, worker = running.pop(ready)
            try:
                counts: Counts = self._ray.get(ready)
            except (exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.ObjectLostError) as e:
                if task.base is None and task.path.exists():
                    yield counts_of(task)  # it died after its work was done
                else:
                    tries[str(task.path)] = tries.get(str(task.path), 0) + 1
                    if tries[str(task.path)] >= _TRIES:
                        raise HarmonizeError(f"{task.path}: given up after {_TRIES} lost actors ({e})") from e
                    left.append(task)
                if left:
                    submit()  # on a new actor, wherever there is room
                continue
            except exceptions.RayTaskError as e:
                raise e.cause if isinstance(e.cause, OSError | HarmonizeError) else e from None
            yield counts
            if left:
                submit(worker)


def counts_of(task: ShardTask) -> Counts:
    """The counts of a shard that is there."""
    counts = Counts()
    store = Store.open(task.path)
    for i in range(len(store)):
        counts.add(store.sample(i))
    return counts
