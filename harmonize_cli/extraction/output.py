"""Where the shards go: what is there already, names of new ones, one file at the end if that is wanted."""

import glob
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from harmonize_cli.errors import BadInput
from harmonize_cli.extraction.config import Mode
from harmonize_cli.files import sync_folder
from harmonize_cli.locks import is_lock
from harmonize_cli.store.compatibility import difference
from harmonize_cli.store.reader import Store
from harmonize_cli.store.schema import FeatureSpec
from harmonize_cli.store.writer import ShardWriter

_PART = re.compile(r"part-(\d+)\.h5")
_LEFT = re.compile(r"part-\d+\.h5\.\d+\.tmp")
# more than any plan has units: a second name for one unit is never another one's first
_ROUND = 10**9


class Output:
    """The store at `out`: a folder of shards. For a name that ends in .h5 the shards are gathered in a folder
    beside it, `NAME.h5.parts`, and put together when all of them are complete."""

    def __init__(self, out: Path, mode: Mode) -> None:
        self.out = out
        self.is_file = out.suffix == ".h5"
        self.folder = out.with_name(out.name + ".parts") if self.is_file else out
        self._anew = mode == "overwrite"
        self._opened: list[Store] | None = None
        self._finish_swap()
        if self.is_file and out.is_dir():
            raise BadInput(f"{out}: is a folder; name the store without .h5, or choose another name")
        if not self.is_file and out.exists() and not out.is_dir():
            raise BadInput(f"{out}: is a file; name a folder, or a file that ends in .h5")
        if not self.is_file and out.is_dir() and not self._parts() and any(out.iterdir()):
            foreign = [p.name for p in out.iterdir() if not (_LEFT.fullmatch(p.name) or is_lock(p))]
            if foreign:
                raise BadInput(
                    f"{out}: is a folder that holds other things ({foreign[0]}, ...); name a new or empty one"
                )
        self._drop_gathered()

    def start(self) -> None:
        """Remove what is to be overwritten: to be called when nothing but the work itself can fail."""
        if not self._anew:
            return
        self._anew, self._opened = False, []
        if self.is_file:
            self.out.unlink(missing_ok=True)
        for path in self._parts():
            path.unlink()
        if self.growing.is_dir():
            shutil.rmtree(self.growing)

    def stores(self) -> list[Store]:
        """What there was at the start to go on from: the finished file and the folder of parts, if any."""
        if self._anew:
            return []
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> list[Store]:
        found = [self.out] if self.is_file and self.out.is_file() else []
        if self._parts():
            found.append(self.folder)
        return [Store.open(path) for path in found]

    def vocab(self) -> list[str] | None:
        """The vocabulary of what is there."""
        for store in self.stores():
            return store.vocab
        return None

    def check(self, features: Sequence[FeatureSpec]) -> None:
        """Refuse to mix encoders.

        Raises:
            BadInput: what is there was made in another way.
        """
        wanted = {spec.key: spec for spec in features}
        for store in self.stores():
            if store.features != wanted:
                what = difference(store.features, wanted, "the store", "what is asked for")
                raise BadInput(
                    f"{store.path}: was made with other encoders or settings ({what}); "
                    "use the same, name another store, or replace it with --mode overwrite"
                )

    def done_ids(self) -> set[str]:
        """Samples that need no work."""
        return {sample for store in self.stores() for sample in store.ids}

    def shards(self) -> list[Path]:
        """The files of what is there."""
        return [path for store in self.stores() for path in store.shards]

    def part(self, index: int) -> Path:
        """A free name for the shard of unit `index`. Other units never get it, so jobs don't collide."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = index
        while (path := self.folder / f"part-{number:05d}.h5").exists():
            number += _ROUND
        for left in self.folder.glob(f"{path.name}.*.tmp"):
            left.unlink(missing_ok=True)  # of a run that was killed
        return path

    @property
    def growing(self) -> Path:
        """Where the extended shards of a folder wait until all of them are there."""
        return self.out.with_name(self.out.name + ".extending")

    @property
    def _old(self) -> Path:
        # no name that a user would give to a copy of his own
        return self.out.with_name(self.out.name + ".replaced-by-extend")

    def _finish_swap(self) -> None:
        """Once the old shards stepped aside the new ones are complete; a run may be killed in between."""
        if self.is_file or not self._old.is_dir():
            return
        if not self.out.exists() and self.growing.is_dir():
            self.growing.rename(self.out)
        if self.out.exists():
            shutil.rmtree(self._old)

    def swap(self) -> None:
        """Put the extended shards in the place of the old ones."""
        if not self.growing.is_dir():
            return
        self.out.rename(self._old)
        self._finish_swap()

    def finish(self, compression: str | None = None) -> None:
        """Put a single file together, if that is what was asked for."""
        if not self.is_file or not self._parts():
            return
        for left in self.out.parent.glob(f"{glob.escape(self.out.name)}.*.tmp"):
            left.unlink(missing_ok=True)  # of a run that was killed here
        parts = self._parts()
        if len(parts) == 1 and not self.out.exists():
            parts[0].rename(self.out)
            sync_folder(self.out.parent)
            shutil.rmtree(self.folder)
            return
        stores = self._open()
        first = stores[0]
        with ShardWriter(
            self.out,
            list(first.features.values()),
            attrs=first.attrs,
            vocab=first.vocab,
            compression=compression,
            overwrite=True,
        ) as shard:
            for store in stores:
                _add_all(store, shard)
        for store in stores:
            store.close()
        shutil.rmtree(self.folder)

    def _parts(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("part-*.h5") if _PART.fullmatch(p.name))

    def _drop_gathered(self) -> None:
        """Remove parts that are in the file already: a run was killed before it could."""
        parts = self._parts()
        if self._anew or not (self.is_file and self.out.is_file() and parts):
            return
        gathered = Store.open(self.out)
        for part in parts:
            if all(sample in gathered for sample in Store.open(part).ids):
                part.unlink()
        if not self._parts():
            shutil.rmtree(self.folder)


def _add_all(store: Store, shard: ShardWriter) -> None:
    try:
        for i in range(len(store)):
            # read and compared with its digests here, so that they need not be made again
            shard.add(store.sample(i), {key: store.feature_digest(key, i) for key in store.features})
    except (BadInput, ValueError) as e:
        raise BadInput(
            f"{store.path}: its shards can't be put together: {e}. Remove the damaged shard alone; then the "
            "same command extracts the samples of that one again"
        ) from e
