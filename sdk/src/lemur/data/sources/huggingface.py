"""Datasets of the Hugging Face hub, or in its layout on this machine, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from lemur.data.local_files import FoundFile, files_digest, find_files, record_of
from lemur.data.source import Record, Source, Unreadable
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
        """Yields each row.

        Raises:
            RecipeError: The dataset cannot be found, opened or read; the library names the row it stopped before.
        """
        row = 0
        try:
            for values in self._open():
                yield record_of(dict(values), self.text_field, f"{self.dataset}#{row}")
                row += 1
        except (OSError, ValueError) as error:
            raise RecipeError(f"source {self.name!r}: {self.dataset}#{row} cannot be read: {error}") from error

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
        return sum(file.path.stat().st_size for file in files) if files else None

    def _open(self) -> Any:
        import datasets

        datasets.disable_progress_bars()
        try:
            return datasets.load_dataset(
                self.dataset,
                self.config,
                split=self.split,
                revision=self.revision,
                data_files=self.data_files,
                streaming=True,
            )
        except (OSError, ValueError) as error:
            raise RecipeError(f"source {self.name!r}: dataset {self.dataset!r} cannot be opened: {error}") from error

    def _version(self) -> str:
        files = self._local_files()
        if files:
            return files_digest(files)
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

    def _local_files(self) -> list[FoundFile]:
        folder = Path(self.dataset)
        if self.data_files:
            paths = [folder / name if folder.is_dir() else Path(name) for name in self.data_files]
            return [FoundFile(path.name, path) for path in paths if path.is_file()]
        return find_files(folder, ["**"], []) if folder.is_dir() else []
