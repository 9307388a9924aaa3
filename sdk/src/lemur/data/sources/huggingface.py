"""Datasets of the Hugging Face hub, or in its layout on this machine, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from lemur.data.reading.file_based import record_of
from lemur.data.reading.source_files import find_files, identities
from lemur.data.source import Partition, Record, Source, SourceFile, Unreadable
from lemur.errors import RecipeError
from lemur.receipt import digest_of


class HuggingfaceSource(Source):
    """One split of a dataset; nothing is downloaded beyond what is read."""

    kind: Literal["huggingface"]
    dataset: str
    """Repository of the hub, a local folder, or a format (`json`, `parquet`, `text`) for `data_files`."""
    config: str | None = None
    """Configuration of the dataset; `None` takes the default one."""
    split: str = "train"
    """Split that is read."""
    revision: str | None = None
    """Commit or tag; required for a result that can be repeated, `None` asks the hub for the newest."""
    data_files: list[str] | None = None
    """Files of the dataset that are read; `None` leaves the choice to the dataset."""
    text_field: str = "text"
    """Column of a document's text."""

    def records(self) -> Iterator[Record | Unreadable]:
        """Yields each row, file by file in the dataset's order.

        Raises:
            RecipeError: The dataset cannot be found, opened or read; the library names the row it stopped before.
        """
        for partition in self.partitions(0):
            yield from self.partition_records(partition)

    def partitions(self, partition_bytes: int) -> list[Partition]:
        """Returns one partition for each data file of the split, as its publisher cut it."""
        settings = self.model_dump(include={"dataset", "config", "split", "text_field"})
        version = self._version()
        return [
            Partition((file,), digest_of([settings, file.name, file.version or version]), file.size_bytes or None)
            for file in self._split_files()
        ]

    def partition_records(self, partition: Partition) -> Iterator[Record | Unreadable]:
        """Yields the rows of one data file.

        Raises:
            RecipeError: As for `records`.
        """
        for file in partition.files:
            row = 0
            try:
                for values in self._open(file):
                    yield record_of(dict(values), self.text_field, f"{file.name}#{row}")
                    row += 1
            except (OSError, ValueError) as error:
                raise RecipeError(f"source {self.name!r}: {file.name}#{row} cannot be read: {error}") from error

    def fingerprint(self) -> str:
        """Returns a digest of the settings and of the commit, or of the files where they are local.

        Raises:
            RecipeError: No revision is set, and the hub cannot be asked for the newest.
        """
        settings = self.model_dump(include={"dataset", "config", "split", "data_files", "text_field"})
        return digest_of([settings, self._version()])

    def estimated_bytes(self) -> int | None:
        """Returns the size of local files; `None` for the hub."""
        files = self._local_files()
        return sum(file.size_bytes for file in files) if files else None

    def _split_files(self) -> list[SourceFile]:
        """Returns the data files of the split; `location` is what the library takes for one of them."""
        import datasets

        try:
            builder = datasets.load_dataset_builder(
                self.dataset, self.config, revision=self.revision, data_files=self.data_files
            )
            found = builder.config.data_files or {}
            if self.split not in found:
                raise ValueError(f"it has no split {self.split!r}, but {', '.join(map(str, found)) or 'none'}")
        except (OSError, ValueError) as error:
            raise RecipeError(f"source {self.name!r}: dataset {self.dataset!r} cannot be opened: {error}") from error
        return [self._split_file(str(location)) for location in found[self.split]]

    def _split_file(self, location: str) -> SourceFile:
        # Files of the hub are named hf://datasets/owner/name@commit/path.
        inside = location.partition("@")[2].partition("/")[2] if location.startswith("hf://") else ""
        path = Path(location)
        if inside or not path.is_file():
            return SourceFile(f"{self.dataset}/{inside or location}", inside or location, 0)
        folder = Path(self.dataset).resolve()
        below = path.resolve()
        name = below.relative_to(folder).as_posix() if below.is_relative_to(folder) else path.name
        status = path.stat()
        return SourceFile(name, str(below), status.st_size, str(status.st_mtime_ns))

    def _open(self, file: SourceFile) -> Any:
        import datasets

        datasets.disable_progress_bars()
        # Files that are named one by one make a split of their own, which is called train.
        return datasets.load_dataset(
            self.dataset,
            self.config,
            split="train",
            revision=self.revision,
            data_files=[file.location],
            streaming=True,
        )

    def _version(self) -> str:
        files = self._local_files()
        if files:
            return digest_of(identities(files))
        if self.revision:
            return self.revision
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return str(HfApi().dataset_info(self.dataset).sha)
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise RecipeError(
                f"source {self.name!r}: the hub cannot be asked for the newest commit of {self.dataset!r} ({error}); "
                "set `revision`"
            ) from error

    def _local_files(self) -> list[SourceFile]:
        folder = Path(self.dataset)
        if self.data_files:
            paths = [folder / name if folder.is_dir() else Path(name) for name in self.data_files]
            return [file for path in paths if path.is_file() for file in find_files(str(path), [], [])]
        return find_files(self.dataset, ["**"], []) if folder.is_dir() else []
